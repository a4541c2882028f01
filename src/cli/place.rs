//! From a target on the command line to the endpoint that serves it.
