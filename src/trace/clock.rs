//! The one clock of a trace.

use std::time::{Instant, SystemTime};

use crate::types::Nanos;

/// `CLOCK_REALTIME` taken once, advanced by `CLOCK_MONOTONIC`: comparable with other logs of the
/// machine, and never stepping back when somebody sets the time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Nanos,
    origin: Instant,
}

impl Clock {
    /// Takes the wall clock now.
    #[must_use]
    pub fn start() -> Clock {
        Clock {
            start: Nanos::of(SystemTime::now()),
            origin: Instant::now(),
        }
    }

    /// When the clock was started.
    #[must_use]
    pub fn started(&self) -> Nanos {
        self.start
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> Nanos {
        let passed = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.start.0.saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_steps_back_and_starts_at_the_wall_clock() {
        let before = Nanos::of(SystemTime::now());
        let clock = Clock::start();
        let mut last = clock.started();
        assert!(last >= before);
        for _ in 0..1000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }
}
