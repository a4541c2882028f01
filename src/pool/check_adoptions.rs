//! What is wrong with adopted directories.

use std::fs;
use std::path::PathBuf;

use super::adopt::lock;
use super::adoption::{Adoption, Phase};
use super::record::Pool;
use super::registry::Registry;
use super::swap;
use crate::endpoint::Result;
use crate::endpoint::btrfs::store::STORE_DIR;
use crate::exec::doctor::Finding;
use crate::model::quoted;

/// Examines all adoptions of the state directory, and what is staged for them in mounted pools.
pub(super) fn check(registry: &Registry) -> Result<Vec<Finding<'_>>> {
    let mut found = Vec::new();
    for (key, adoption) in registry.adoptions()? {
        match adoption {
            Err(error) => found.push(Finding::problem(error.to_string(), format!("adoption {key}"))),
            Ok(adoption) => found.extend(adopted(registry, adoption)),
        }
    }
    for (_, pool) in registry.pools()? {
        if let Ok(pool) = pool
            && pool.is_mounted()
        {
            found.extend(stray_staging(registry, &pool));
        }
    }
    Ok(found)
}

fn adopted(registry: &Registry, adoption: Adoption) -> Option<Finding<'_>> {
    // One that is being worked on now is no finding.
    drop(lock(registry, &adoption.dir).ok()?);
    let dir = adoption.dir.clone();
    let finding = match adoption.phase {
        Phase::Copying => unfinished(registry, &adoption),
        Phase::Committing | Phase::Discarding => interrupted(registry, &adoption),
        Phase::Done | Phase::Discarded => registered(registry, &adoption)?,
    };
    Some(Finding { since: Some(adoption.began), place: dir.display().to_string(), ..finding })
}

fn unfinished<'a>(registry: &'a Registry, adoption: &Adoption) -> Finding<'a> {
    let dir = adoption.dir.clone();
    let what = format!("an unfinished adoption into {}; the same command goes on with it", adoption.to);
    let fix = format!("cowsnap adopt {} --to {}", quoted(dir.display()), quoted(&adoption.to));
    Finding::problem(what, dir.display()).fixed_by(fix).repaired_by(move || {
        swap::undo(registry, &dir)?;
        Ok(())
    })
}

fn interrupted<'a>(registry: &'a Registry, adoption: &Adoption) -> Finding<'a> {
    let dir = adoption.dir.clone();
    let what = format!("the adoption into {} was interrupted as it was completed", adoption.to);
    Finding::problem(what, dir.display()).repaired_by(move || {
        swap::settle_alone(registry, &dir)?;
        // Taken back: then the copy is dead too.
        match registry.adoption(&dir)? {
            Some(Adoption { phase: Phase::Copying, .. }) => Ok(swap::undo(registry, &dir).map(drop)?),
            _ => Ok(()),
        }
    })
}

fn registered<'a>(registry: &'a Registry, adoption: &Adoption) -> Option<Finding<'a>> {
    let dir = adoption.dir.clone();
    let name = adoption.to.pool().to_owned();
    let pool = match registry.expect(&name) {
        Ok(pool) => pool,
        Err(error) => return Some(Finding::problem(error.to_string(), dir.display())),
    };
    if !swap::is_mounted(&pool, adoption) {
        let what = format!("{} is not mounted at the directory that was adopted into it", adoption.to);
        let fix = format!("cowsnap pool mount {}", quoted(&name));
        return Some(Finding::problem(what, dir.display()).fixed_by(fix).repaired_by(move || {
            super::mount(registry, &name)?;
            Ok(())
        }));
    }
    let old = adoption.old();
    (adoption.phase == Phase::Done && old.exists()).then(|| {
        let what = format!("the old copy from before the adoption is still at {}", old.display());
        Finding::note(what, dir.display())
            .fixed_by(format!("cowsnap adopt {} --discard-old", quoted(dir.display())))
    })
}

/// Copies in staging that belong to no adoption.
fn stray_staging<'a>(registry: &'a Registry, pool: &Pool) -> Vec<Finding<'a>> {
    let folder = pool.mountpoint.join(STORE_DIR).join("adopt");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)));
    let strays = names.filter(|(_, key)| matches!(registry.adoption_by_key(key), Ok(None)));
    let finding = |(path, _): (PathBuf, String)| {
        let found = Finding::problem("a copy that belongs to no adoption", path.display());
        found.since_change_of(&path).repaired_by(move || Ok(swap::clear_folder(&path)?))
    };
    strays.map(finding).collect()
}
