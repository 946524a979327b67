//! Where threads run.

use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::check;

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

/// Lets this thread wait for its turn where it is woken (man 7 sched, `SCHED_BATCH`): as much of the processor as any other
/// has, but not at once. For what works a heap off, beside threads that each request waits for.
pub fn work_in_background() {
    change_policy(libc::SCHED_OTHER, libc::SCHED_BATCH);
}

/// Takes that back, for a thread that was started by one in the background.
pub fn work_in_foreground() {
    change_policy(libc::SCHED_BATCH, libc::SCHED_OTHER);
}

/// Leaves a thread alone that somebody has given another policy.
fn change_policy(from: libc::c_int, to: libc::c_int) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls concern this thread; the record is valid for the call, which keeps nothing of it.
    let ret = unsafe {
        if libc::sched_getscheduler(0) != from {
            return;
        }
        libc::sched_setscheduler(0, to, &raw const parameters)
    };
    if let Err(errno) = check(ret) {
        log::debug!("a thread keeps its scheduling policy: {errno}");
    }
}

/// The CPU that this thread is on, or was a moment ago.
#[must_use]
pub fn current_cpu() -> u16 {
    let cpu = sched_getcpu().ok().and_then(|cpu| cpu.try_into().ok());
    cpu.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_in_the_background_is_scheduled_as_a_batch_and_others_are_not() {
        let policy = || {
            // SAFETY: the call takes a plain number.
            unsafe { libc::sched_getscheduler(0) }
        };
        let before = policy();
        assert_eq!(before, libc::SCHED_OTHER);
        let other = std::thread::spawn(move || {
            work_in_background();
            let there = policy();
            work_in_foreground();
            (there, policy())
        });
        let there_and_back = (libc::SCHED_BATCH, libc::SCHED_OTHER);
        assert_eq!(other.join().unwrap(), there_and_back);
        assert_eq!(policy(), before);
    }
}
