//! Writes a plan into the maps, compares, and erases.

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;

use mesh_ebpf::abi::MAX_PAIRS;
use mesh_ebpf::pair::Tally;

use super::load::Maps;
use super::plan::Plan;

impl Maps {
    /// Writes the entries of a plan, but for its policy.
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), MapError> {
        for key in &plan.addresses {
            self.addresses.insert(key, 1, 0)?;
        }
        for (key, value) in &plan.ports {
            self.ports.insert(key, value, 0)?;
        }
        for ((prefix, key), value) in &plan.cidrs {
            self.cidrs.insert(&Key::new(*prefix, *key), value, 0)?;
        }
        for key in &plan.owners {
            self.owners.insert(key, 1, 0)?;
        }
        for (key, value) in &plan.interfaces {
            self.interfaces.insert(key, value, 0)?;
        }
        Ok(())
    }

    /// Puts every pair of the fast path on the stack of the free ones.
    pub(super) fn free_all_pairs(&mut self) -> Result<(), MapError> {
        // The lowest on top, so that what is used lies together.
        (0..MAX_PAIRS)
            .rev()
            .try_for_each(|pair| self.free.push(pair, 0))
    }

    /// Whether an application still has to read what was handed to it.
    pub(super) fn are_awaited(&self) -> bool {
        let joined = self.tally.get(&(Tally::Joined as u32), 0);
        // There are many pairs to look at, and none to look for where none was ever made.
        joined.is_ok_and(|joined| joined.iter().any(|count| *count > 0))
            && self
                .pairs
                .iter()
                .any(|pair| pair.is_ok_and(|pair| pair.is_awaited()))
    }

    /// Whether the entries of a plan are there.
    pub(super) fn hold(&self, plan: &Plan) -> bool {
        plan.addresses
            .iter()
            .all(|key| self.addresses.get(key, 0).is_ok())
            && plan
                .owners
                .iter()
                .all(|key| self.owners.get(key, 0).is_ok())
            && plan
                .ports
                .iter()
                .all(|(key, value)| self.ports.get(key, 0).is_ok_and(|v| v == *value))
            && plan.cidrs.iter().all(|((prefix, key), value)| {
                let key = Key::new(*prefix, *key);
                self.cidrs.get(&key, 0).is_ok_and(|v| v == *value)
            })
            && plan
                .interfaces
                .iter()
                .all(|(key, value)| self.interfaces.get(key, 0).is_ok_and(|v| v == *value))
    }

    /// Removes the entries of a plan.
    pub(super) fn erase(&mut self, plan: &Plan) -> Result<(), MapError> {
        let mut result = Ok(());
        for key in &plan.addresses {
            result = result.and(gone(self.addresses.remove(key)));
        }
        for key in plan.ports.keys() {
            result = result.and(gone(self.ports.remove(key)));
        }
        for (prefix, key) in plan.cidrs.keys() {
            result = result.and(gone(self.cidrs.remove(&Key::new(*prefix, *key))));
        }
        for key in &plan.owners {
            result = result.and(gone(self.owners.remove(key)));
        }
        for key in plan.interfaces.keys() {
            result = result.and(gone(self.interfaces.remove(key)));
        }
        result
    }
}

/// What is not there need not be removed.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}
