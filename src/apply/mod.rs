//! stub
#[derive(Debug, thiserror::Error)]
pub enum Error { #[error("x")] X }
impl Error { pub fn exit(&self) -> crate::exit::Exit { crate::exit::Exit::Failure } }
