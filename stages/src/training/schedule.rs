//! The learning rate by update: linear warm-up from zero, then linear decay to zero (the original's
//! `warmup_linear`). It does not know an optimizer.

/// Warm-up over `warm_up` updates to `peak`, then decay to zero at `updates`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearSchedule {
    /// Greatest learning rate.
    pub peak: f64,
    /// Updates until it is reached.
    pub warm_up: u64,
    /// Updates after which it is zero.
    pub updates: u64,
}

impl LinearSchedule {
    /// The rate once `done` updates are done, that is, the one update `done + 1` uses. The first update of a
    /// schedule with a warm-up thus runs at rate zero, as in the original.
    pub(crate) fn after(&self, done: u64) -> f64 {
        let share = if done < self.warm_up {
            done as f64 / self.warm_up as f64
        } else {
            self.updates.saturating_sub(done) as f64 / self.updates.saturating_sub(self.warm_up).max(1) as f64
        };
        self.peak * share
    }
}

/// Whether something that happens every `every` updates happens after `update`: it also does after the `last`.
pub(crate) fn is_due(update: u64, every: u64, last: u64) -> bool {
    update.is_multiple_of(every) || update == last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_schedule_has_its_published_values() {
        let schedule = LinearSchedule { peak: 5e-5, warm_up: 2000, updates: 22000 };
        let of_update = |update: u64| schedule.after(update - 1);
        for (update, rate) in [(1, 0.0), (2, 2.5e-8), (2001, 5e-5), (12001, 2.5e-5), (22000, 2.5e-9)] {
            assert!((of_update(update) - rate).abs() < 1e-18, "update {update}: {}", of_update(update));
        }
        assert_eq!(schedule.after(22000), 0.0);
        assert_eq!(schedule.after(30000), 0.0);
    }

    #[test]
    fn without_warm_up_the_first_update_runs_at_the_peak() {
        let schedule = LinearSchedule { peak: 1.0, warm_up: 0, updates: 4 };
        assert_eq!([0, 1, 2, 3, 4].map(|done| schedule.after(done)), [1.0, 0.75, 0.5, 0.25, 0.0]);
        let only_warm_up = LinearSchedule { peak: 1.0, warm_up: 2, updates: 2 };
        assert_eq!([0, 1, 2].map(|done| only_warm_up.after(done)), [0.0, 0.5, 0.0]);
    }

    #[test]
    fn the_last_update_is_always_due() {
        let due: Vec<u64> = (1..=10).filter(|&update| is_due(update, 4, 10)).collect();
        assert_eq!(due, [4, 8, 10]);
    }
}
