//! Waits for what goes on in the background: the thread that all connections live on.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

use crate::sys::interrupt;

/// Signals are looked for that often.
const NAP: Duration = Duration::from_millis(100);

static SHARED: OnceLock<Handle> = OnceLock::new();

/// The runtime that is shared by all stores; begun by the first.
pub fn handle() -> io::Result<Handle> {
    if let Some(handle) = SHARED.get() {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    // Lost if another thread was faster: then nobody asks it for anything.
    if SHARED.set(handle.clone()).is_ok() {
        std::thread::Builder::new().name("store".into()).spawn(move || {
            let _ = interrupt::block_all_in_this_thread();
            runtime.block_on(std::future::pending::<()>())
        })?;
        return Ok(handle);
    }
    Ok(SHARED.get().cloned().unwrap_or(handle))
}

/// Waits for `future`, which works in this thread, or until a signal comes.
///
/// # Errors
/// A signal.
pub fn wait<F: Future>(handle: &Handle, future: F) -> io::Result<F::Output> {
    interrupt::check()?;
    handle.block_on(async {
        let mut future = pin!(future);
        loop {
            match tokio::time::timeout(NAP, &mut future).await {
                Ok(output) => return Ok(output),
                Err(_) => interrupt::check()?,
            }
        }
    })
}
