//! How does a branch depart from what its disk says?

use std::sync::Arc;

use super::overrides::Overrides;
use super::quota::Quota;

/// What holds for everything in a branch. Most branches have none.
#[derive(Debug, Default)]
pub struct Policy {
    /// Records say whose its files are.
    pub overrides: Option<Arc<Overrides>>,
    /// It may hold so much and no more.
    pub quota: Option<Arc<Quota>>,
}
