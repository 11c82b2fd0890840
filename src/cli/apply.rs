//! stub
#[derive(Debug, clap::Args)]
pub struct ApplyArgs { pub name: String }
