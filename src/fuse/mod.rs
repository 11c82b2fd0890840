//! The kernel side: requests in, replies out.
//!
//! Nothing here decides anything about branches, and nothing else in the crate but
//! [`mount`](crate::mount) names fuser.

mod adapter;
mod convert;
mod messages;

pub use adapter::Adapter;
