//! What was received in part is given up.

use crate::endpoint::zfs::dataset::Dataset;
use crate::endpoint::zfs::lock::{Work, try_lock};
use crate::endpoint::{Error, Result};
use crate::sys::lzc::Errno;

impl Dataset {
    /// Destroys what was received in part and nothing else: the hidden clone that an increment is applied to, or the dataset
    /// that a first stream was making.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing; [`Error::Refused`] while it is being received.
    pub fn give_up_partial(&self) -> Result<()> {
        let lzc = self.settled()?;
        let name = self.name().as_str();
        let Some(_lock) = try_lock(Work::Receive, name)? else { return Err(self.is_received_now()) };
        let hidden = format!("{name}/%recv");
        let victim = if lzc.exists(&hidden) {
            hidden
        } else if lzc.exists(name) && self.is_begun()? && self.get("receive_resume_token")? != "-" {
            name.to_owned()
        } else {
            let subject = format!("{self}@%partial");
            return Err(Error::NotFound { what: "partial receive", subject, hint: None });
        };
        lzc.destroy(&victim).map_err(|failed| match failed.errno {
            Errno::Busy => self.is_received_now(),
            _ => self.failed("destroy what was received in part of", &[("destroy,mount", name)])(failed),
        })
    }

    fn is_received_now(&self) -> Error {
        self.refused("destroy what was received in part of", "it is being received now".into(), None)
    }
}
