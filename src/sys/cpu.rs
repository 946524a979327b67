//! Where threads run.

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread on a CPU, if it is there.
pub fn stay_on(cpu: u16) {
    let mut set = CpuSet::new();
    let kept = set
        .set(cpu.into())
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(errno) = kept {
        log::debug!("a thread is not kept on CPU {cpu}: {errno}");
    }
}

/// The CPU that this thread is on, or was a moment ago.
#[must_use]
pub fn current_cpu() -> u16 {
    let cpu = sched_getcpu().ok().and_then(|cpu| cpu.try_into().ok());
    cpu.unwrap_or(0)
}
