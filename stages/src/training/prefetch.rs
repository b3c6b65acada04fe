//! Work done ahead of where it is needed, by a thread of its own: the next batch is read while a step computes. It does
//! not know what the items are.

use std::sync::mpsc::sync_channel;
use std::thread;

/// Calls `f` with `items` in their order, each built by another thread while `f` works on the one before it. At
/// most one item is built that `f` does not take.
pub(crate) fn prefetch<T: Send, R>(
    items: impl Iterator<Item = T> + Send,
    f: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> R {
    thread::scope(|scope| {
        // Without a buffer: the builder holds one item, `f` another, and there are no more.
        let (built, taken) = sync_channel(0);
        scope.spawn(move || {
            for item in items {
                if built.send(item).is_err() {
                    break;
                }
            }
        });
        f(&mut taken.into_iter())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_come_in_their_order_and_to_the_end() {
        let taken = prefetch(0..100, |items| items.collect::<Vec<_>>());
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_next_item_is_made_while_one_is_worked_on() {
        let (building, built) = channel();
        let items = (0..3).inspect(|item| building.send(*item).unwrap());
        prefetch(items, |items| {
            // The second is not requested here: were it not built in advance, this would wait until the time is up.
            assert_eq!(items.next(), Some(0));
            let so_far: Vec<_> = (0..2).map(|_| built.recv_timeout(Duration::from_secs(60))).collect();
            assert_eq!(so_far, [Ok(0), Ok(1)]);
        });
    }

    #[test]
    fn no_more_is_made_than_one_item_ahead() {
        let count = AtomicUsize::new(0);
        let items = (0..100).inspect(|_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let taken = prefetch(items, |items| items.take(3).count());
        assert_eq!(taken, 3);
        assert!((3..=4).contains(&count.load(Ordering::SeqCst)), "{count:?}");
    }

    #[test]
    #[should_panic(expected = "scoped thread panicked")]
    fn an_item_that_cannot_be_made_does_not_go_unseen() {
        let items = (0..3).inspect(|item| assert_ne!(*item, 1, "made on purpose"));
        prefetch(items, |items| items.count());
    }
}
