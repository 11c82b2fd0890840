//! How can programs that give files and themselves to other users work where there is one user only?
//!
//! Root in a run without lent ids is the only user of it: the kernel refuses every other id. Installers stop at that, though
//! whose a file is matters to nobody in there. So for them these calls succeed and do nothing, as Charliecloud has it
//! ("zero-consistency root emulation", SC 2023). apt(8) looks again whether it has become somebody else, so it is told
//! not to try.

use std::collections::BTreeMap;
use std::path::Path;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The file that tells apt, in the directory of runs.
pub(super) const APT_CONFIG: &str = ".apt.conf";
/// What is in it.
pub(super) const APT_SETTING: &str = "APT::Sandbox::User \"root\";\n";

/// The calls that do nothing.
const CALLS: &[libc::c_long] = &[
    libc::SYS_setgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

/// Has the calls do nothing in this process and in what it starts.
pub(super) fn pretend() -> Result<(), String> {
    let rules: BTreeMap<i64, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into().map_err(|error| format!("{error}"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(0), arch);
    let program: BpfProgram =
        filter.and_then(TryInto::try_into).map_err(|error: seccompiler::BackendError| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

/// Where apt finds what it is told.
pub(super) fn apt_config(runs: &Path) -> std::path::PathBuf {
    runs.join(APT_CONFIG)
}
