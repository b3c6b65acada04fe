//! Several pictures at once: on a GPU each with a thread of its own, from its file to its regions, on the CPU in batches on the
//! pool's threads. It knows no pictures.
//!
//! The threads on a GPU take turns there ([`FasterRcnn::detect`](crate::models::faster_rcnn::FasterRcnn::detect)); what one does on
//! the CPU is done beside another's turn. So their number bounds the memory, and is the only queue there is.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use rayon::prelude::*;
use stage_api::StageError;

/// Pictures in flight on a GPU. Reckoned, not measured: of X-152 a picture has two turns of some 25 ms together, and some 60 ms of
/// work on 16 cores (reading, proposals, choice by class), which three others' turns cover.
const ON_A_GPU: usize = 4;
/// Boxes that a detector's head describes at once, at least, where memory is short.
const FEWEST_BOXES: usize = 125;

/// How many pictures are worked on at once, and how many boxes of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schedule {
    /// Batches of so many, spread over the pool's threads.
    Batches(usize),
    /// So many threads with a picture each, whose head describes at most so many boxes at once.
    InFlight { pictures: usize, boxes: usize },
}

impl Schedule {
    /// For a GPU; no picture has more than `max_boxes` boxes.
    pub(super) fn on_a_gpu(max_boxes: usize) -> Self {
        Self::InFlight { pictures: ON_A_GPU, boxes: max_boxes }
    }

    /// Boxes that a detector's head describes at once.
    pub(super) fn boxes_at_once(self) -> usize {
        match self {
            Self::Batches(_) => usize::MAX,
            Self::InFlight { boxes, .. } => boxes,
        }
    }

    /// Pictures whose time shows that of all.
    pub(super) fn sample(self) -> usize {
        match self {
            Self::Batches(pictures) => pictures,
            Self::InFlight { pictures, .. } => 4 * pictures,
        }
    }

    /// What needs less memory of the device: fewer pictures, then fewer boxes at once; `None` if nothing does.
    pub(super) fn smaller(self) -> Option<Self> {
        match self {
            Self::InFlight { pictures, boxes } if pictures > 1 => {
                Some(Self::InFlight { pictures: pictures / 2, boxes })
            }
            Self::InFlight { pictures, boxes } if boxes > FEWEST_BOXES => {
                Some(Self::InFlight { pictures, boxes: (boxes / 2).max(FEWEST_BOXES) })
            }
            _ => None,
        }
    }

    /// Calls `work` with each of `items`, begun in their order, and on the calling thread `take` with each result as it comes. After a
    /// break no further item is begun.
    ///
    /// # Errors
    /// The first of `take`.
    pub(super) fn run<T: Send>(
        self,
        items: &[usize],
        work: impl Fn(usize) -> T + Sync,
        mut take: impl FnMut(usize, T) -> Result<ControlFlow<()>, StageError>,
    ) -> Result<(), StageError> {
        match self {
            Self::Batches(size) => {
                for batch in items.chunks(size) {
                    let results: Vec<T> = batch.par_iter().map(|&item| work(item)).collect();
                    for (&item, result) in batch.iter().zip(results) {
                        if take(item, result)?.is_break() {
                            return Ok(());
                        }
                    }
                }
                Ok(())
            }
            Self::InFlight { pictures, .. } => in_flight(items, pictures, work, take),
        }
    }
}

fn in_flight<T: Send>(
    items: &[usize],
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<ControlFlow<()>, StageError>,
) -> Result<(), StageError> {
    let (next, stops) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (send, results) = mpsc::sync_channel(threads);
    let mut outcome = Ok(());
    thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            let (send, work, next, stops) = (send.clone(), &work, &next, &stops);
            scope.spawn(move || {
                while !stops.load(Ordering::Relaxed) {
                    let Some(&item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                    // The receiver is there until all have ended.
                    let _ = send.send((item, work(item)));
                }
            });
        }
        drop(send);
        for (item, result) in results {
            if outcome.is_err() {
                continue;
            }
            match take(item, result) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => stops.store(true, Ordering::Relaxed),
                Err(error) => {
                    stops.store(true, Ordering::Relaxed);
                    outcome = Err(error);
                }
            }
        }
    });
    outcome
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Barrier, Mutex};

    use super::*;

    const THREE: Schedule = Schedule::InFlight { pictures: 3, boxes: 1000 };

    #[test]
    fn each_item_is_taken_once_whatever_the_schedule() {
        for schedule in [Schedule::Batches(1), Schedule::Batches(4), THREE] {
            let mut taken = BTreeSet::new();
            let items: Vec<usize> = (0..10).collect();
            let take = |item, doubled| {
                assert_eq!(doubled, 2 * item);
                assert!(taken.insert(item), "{item} came twice");
                Ok(ControlFlow::Continue(()))
            };
            schedule.run(&items, |item| 2 * item, take).unwrap();
            assert_eq!(taken.len(), 10, "{schedule:?}");
            schedule.run(&[], |item| item, |_, _| panic!("there is nothing to take")).unwrap();
        }
    }

    /// Three threads meet, so three pictures are in flight; never are there four.
    #[test]
    fn as_many_are_in_flight_as_the_schedule_has() {
        let (meeting, now, most) = (Barrier::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |_| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            meeting.wait();
            now.fetch_sub(1, Ordering::SeqCst);
        };
        THREE.run(&[0, 1, 2, 3, 4, 5], work, |_, ()| Ok(ControlFlow::Continue(()))).unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn after_a_break_or_an_error_nothing_is_begun() {
        let items: Vec<usize> = (0..1000).collect();
        for fails in [false, true] {
            let begun = Mutex::new(0);
            let mut taken = 0;
            let work = |_| {
                *begun.lock().unwrap() += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            };
            let found = THREE.run(&items, work, |_, ()| {
                taken += 1;
                if fails { Err(StageError::failed("no".to_owned())) } else { Ok(ControlFlow::Break(())) }
            });
            assert_eq!(found.is_err(), fails);
            // What was in flight when the first result came, and what waited to be taken, ends.
            assert!(*begun.lock().unwrap() < 20, "{} were begun", begun.lock().unwrap());
            assert_eq!(if fails { 1 } else { *begun.lock().unwrap() }, taken);
        }
    }

    #[test]
    fn less_memory_means_fewer_pictures_and_then_fewer_boxes() {
        let mut all = vec![Schedule::on_a_gpu(300)];
        while let Some(smaller) = all.last().and_then(|last| last.smaller()) {
            all.push(smaller);
        }
        let expected = [(4, 300), (2, 300), (1, 300), (1, 150), (1, 125)];
        assert_eq!(all, expected.map(|(pictures, boxes)| Schedule::InFlight { pictures, boxes }));
        assert_eq!(Schedule::Batches(32).smaller(), None);
    }
}
