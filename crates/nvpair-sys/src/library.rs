//! A shared library that is opened when its first function is called, and the functions of it that are used.

use std::ffi::{c_int, c_uint};

/// Why a function of a shared library can not be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The library can not be opened.
    Library {
        /// Its name with its version, as the dynamic linker looks for it.
        soname: &'static str,
        /// What the dynamic linker says.
        why: String,
    },
    /// The library is there and has no such function.
    Symbol {
        /// The library's name.
        soname: &'static str,
        /// The function's name.
        name: &'static str,
    },
}

/// A function as it is declared here, in Rust's words: what `vm-tests/prototypes.c` is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prototype {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments.
    pub arguments: &'static [&'static str],
    /// The type of what it returns; empty if nothing.
    pub returns: &'static str,
}

/// What a function answers when its library is missing.
pub trait WhenMissing {
    /// An error where the type has one, else nothing.
    fn when_missing() -> Self;
}

impl WhenMissing for () {
    fn when_missing() -> Self {}
}

impl WhenMissing for c_int {
    fn when_missing() -> Self {
        libc::ENOSYS
    }
}

/// `boolean_t`: no.
impl WhenMissing for c_uint {
    fn when_missing() -> Self {
        0
    }
}

impl<T> WhenMissing for *mut T {
    fn when_missing() -> Self {
        std::ptr::null_mut()
    }
}

/// Opens the library of that name for good: it is never closed.
///
/// # Errors
/// [`Missing::Library`].
pub fn open(soname: &'static str) -> Result<&'static libloading::os::unix::Library, Missing> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the constructors of OpenZFS' libraries only set up locks and tables of their own.
    match unsafe { Library::open(Some(soname), RTLD_NOW | RTLD_LOCAL) } {
        Ok(library) => Ok(Box::leak(Box::new(library))),
        Err(error) => Err(Missing::Library { soname, why: words(&error) }),
    }
}

/// What the dynamic linker said, which libloading keeps as the source of its own error where it can.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Declares functions of a shared library. Each is `pub unsafe fn` and calls the library's own, which all are looked up
/// at the first call or at [`load`](crate::load); without the library it answers [`WhenMissing`].
#[macro_export]
macro_rules! library {
    ($soname:literal; $(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $returns:ty)?;)*) => {
        /// The library's name with its version.
        pub const SONAME: &str = $soname;

        /// Every function that is declared here.
        pub const PROTOTYPES: &[$crate::Prototype] = &[$($crate::Prototype {
            name: stringify!($name),
            arguments: &[$(stringify!($type)),*],
            returns: concat!($(stringify!($returns))?),
        }),*];

        struct Table {
            $($name: unsafe extern "C" fn($($type),*) $(-> $returns)?,)*
        }

        fn look_up() -> Result<Table, $crate::Missing> {
            let library = $crate::open(SONAME)?;
            Ok(Table {
                // SAFETY: the functions have these types: vm-tests/prototypes.c holds them against the headers.
                $($name: unsafe {
                    *library.get(stringify!($name).as_bytes()).map_err(|_| $crate::Missing::Symbol {
                        soname: SONAME,
                        name: stringify!($name),
                    })?
                },)*
            })
        }

        fn table() -> Result<&'static Table, &'static $crate::Missing> {
            static TABLE: std::sync::OnceLock<Result<Table, $crate::Missing>> = std::sync::OnceLock::new();
            TABLE.get_or_init(look_up).as_ref()
        }

        /// Opens the library and looks every function up, once.
        ///
        /// # Errors
        /// The library is not there, or lacks one of the functions.
        pub fn load() -> Result<(), &'static $crate::Missing> {
            table().map(drop)
        }

        $(
            #[doc = concat!("`", stringify!($name), "` of `", $soname, "`.")]
            ///
            /// # Safety
            /// What the function's own documentation asks of its arguments.
            pub unsafe fn $name($($arg: $type),*) $(-> $returns)? {
                match table() {
                    // SAFETY: the caller vouches for the arguments.
                    Ok(table) => unsafe { (table.$name)($($arg),*) },
                    Err(_) => $crate::WhenMissing::when_missing(),
                }
            }
        )*
    };
}
