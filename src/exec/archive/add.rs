//! An archive, made.

use crate::Result;
use crate::endpoint::archive::{Archive, Charter, Error, Writers, probe};
use crate::endpoint::store::{Probed, Store};

/// Makes an archive, once it is known what its store does. One that puts objects over others is taken only for a `single` writer.
///
/// # Errors
/// [`Error::Exists`]; [`Error::Unfit`] for a store that is no place for several writers; what the store says.
pub fn add(store: Store, dataset: String, single: bool) -> Result<Archive> {
    expect_none(&store)?;
    let writers = match probe(&store)? {
        _ if single => Writers::One,
        Probed::Conditional => Writers::Many,
        Probed::NotConditional { why } => {
            return Err(Error::Unfit { url: store.url().to_string(), found: why }.into());
        }
    };
    Ok(Archive::create(store, Charter::new(dataset, writers)?)?)
}

/// That there is none yet.
///
/// # Errors
/// [`Error::Exists`]; what the store says.
pub fn expect_none(store: &Store) -> Result<()> {
    match Archive::open(store.clone()) {
        Ok(there) => Err(Error::Exists { url: there.url(), dataset: there.charter().dataset.clone() }.into()),
        Err(Error::None { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
