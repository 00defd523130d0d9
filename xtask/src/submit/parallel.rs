// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same work on many things at once.

use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Runs `work` on every item, on at most `jobs` threads; the results are in the order of the items.
/// The first error is given and ends the rest.
pub fn map<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(vec![]);
    // Commands are ended with the thread that starts them; these live until all is done.
    std::thread::scope(|s| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            s.spawn(|| loop {
                let i = next.fetch_add(1, Ordering::SeqCst);
                let Some(item) = items.get(i) else { break };
                let result = work(item);
                if result.is_err() {
                    next.store(items.len(), Ordering::SeqCst);
                }
                let mut all = results.lock().unwrap_or_else(|e| e.into_inner());
                all.push((i, result));
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|e| e.into_inner());
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, r)| r).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order() {
        let items: Vec<usize> = (0..100).collect();
        let out = map(4, &items, |n| Ok(n * 2)).unwrap();
        assert_eq!(out, (0..100).map(|n| n * 2).collect::<Vec<_>>());
        assert!(map(2, &[] as &[usize], |n| Ok(*n)).unwrap().is_empty());
    }

    #[test]
    fn an_error_is_given() {
        let e = map(2, &[1, 2, 3], |n| {
            anyhow::ensure!(*n != 2, "two");
            Ok(*n)
        });
        assert_eq!(e.unwrap_err().to_string(), "two");
    }
}
