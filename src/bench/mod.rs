//! What does copy-up cost on this machine?

pub mod stats;
pub mod table;
pub mod units;
