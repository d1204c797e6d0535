//! Real connections through the chains.

use anyhow::Result;

/// The tests, by name.
pub fn tests() -> Vec<(&'static str, fn() -> Result<()>)> {
    vec![]
}
