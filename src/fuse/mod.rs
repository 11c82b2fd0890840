//! The kernel side: requests in, replies out.
//!
//! Nothing here decides anything about branches, and nothing else in the crate but
//! [`mount`](crate::mount) names fuser.

mod adapter;
mod caller_groups;
mod convert;
mod kernel;
mod opcodes;
mod reply;
mod service;
mod view;

pub use adapter::Adapter;
pub use kernel::Kernel;
pub use service::Control;
pub use view::{Timeouts, View};
