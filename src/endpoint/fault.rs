//! An endpoint that fails at its n-th operation, before or after its effect.
