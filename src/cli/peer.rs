//! Places on other machines, and on this one in the hands of another process.

use std::time::Duration;

use crate::cli::{Context, place, progress};
use crate::endpoint::Dataset;
use crate::endpoint::peer::{Patience, Peer, Ssh};
use crate::exec::transfer::Place;
use crate::model::{BadAddress, PeerAddress, Target};
use crate::{Error, Result};

/// How peers are reached, as it is said on the command line.
pub struct Way<'a> {
    /// After how many seconds in which nothing moves one is given up.
    pub stall: u64,
    /// The program that reaches them, and its first arguments.
    pub ssh: &'a str,
    /// What is run there.
    pub remote: &'a str,
    /// As [`Ssh::unattended`].
    pub unattended: Option<Duration>,
}

impl Way<'_> {
    fn by(&self, program: Vec<String>) -> Ssh {
        let patience = Patience { stall: Some(Duration::from_secs(self.stall)), ..Patience::default() };
        Ssh {
            program,
            remote: self.remote.into(),
            patience,
            unattended: self.unattended,
            hear: progress::say,
        }
    }

    /// The place that `target` names, connected to if it is on another machine.
    ///
    /// # Errors
    /// As [`place::dataset`]; an address that is none; as [`Peer::connect`].
    pub fn to(&self, target: &Target, context: &Context) -> Result<Place> {
        let usage = |what: String, hint: Option<String>| Error::Usage { what, hint };
        let Target::Remote(address) = target else {
            return Ok(Place::Here(place::dataset(target, context)?));
        };
        let address: PeerAddress = address.parse().map_err(|error: BadAddress| {
            usage(error.to_string(), Some("ssh://[USER@]HOST[:PORT]/TARGET".into()))
        })?;
        let program: Vec<_> = self.ssh.split_whitespace().map(str::to_owned).collect();
        if program.is_empty() {
            return Err(usage("--ssh names no program".into(), None));
        }
        Ok(Place::There(Peer::connect(&address, &self.by(program))?))
    }

    /// `dataset` in the hands of another process, which a disk that hangs takes along, and not this one. What can not be told by name is left
    /// to this process.
    ///
    /// # Errors
    /// A process that can not be started.
    pub fn aside(&self, dataset: &Dataset, checkpoint: u64, context: &Context) -> Result<Place> {
        // What died there is cleared away by who works there.
        let here =
            || Ok(Place::Here(place::dataset(&Target::parse(dataset.to_string().as_ref())?, context)?));
        let (Some(address), Some(state_dir)) = (address(dataset, context), context.state_dir().to_str())
        else {
            return here();
        };
        let (checkpoint, own) = (checkpoint.to_string(), std::process::id().to_string());
        let program = [
            &["/proc/self/exe", "--state-dir", state_dir, "serve"][..],
            &["--checkpoint", &checkpoint, "--with", &own],
        ]
        .concat();
        let peer = Peer::connect(&address, &self.by(program.into_iter().map(str::to_owned).collect()))?;
        Ok(Place::There(peer.standing_for(dataset)))
    }
}

/// How another process is told of `dataset`; `None` if it would take the name for something else.
fn address(dataset: &Dataset, context: &Context) -> Option<PeerAddress> {
    let name = dataset.to_string();
    let named = place::dataset_as_it_is(&Target::parse(name.as_ref()).ok()?, context).ok()?;
    PeerAddress::aside(&name).ok().filter(|_| named == *dataset)
}

/// The dataset called `below`, over the connection to one that is in the hands of the same process.
pub fn beside(peer: &Peer, below: Dataset, context: &Context) -> Place {
    let address = address(&below, context);
    let known = address.and_then(|address| peer.with_target(address.target()).ok());
    let known = known.map(|peer| peer.standing_for(&below));
    known.map_or(Place::Here(below), Place::There)
}
