//! The store as a whole: many at once, two on the same contents, and the end.

use std::sync::atomic::{AtomicUsize, Ordering};

use lomusai_core::testing::block_on;
use lomusai_wire::{RunFilter, codes};

use crate::Case;
use crate::kit::{append, change, commit, info, messages, of, refuse, told, values};

crate::for_each_store![
    a_thousand_runs_are_written_by_sixteen_threads,
    many_commits_await_each_other_on_one_thread,
    of_many_writers_at_one_place_one_succeeds,
    a_refusal_harms_no_neighbour,
    a_commit_is_written_even_if_nobody_awaits_it,
    two_stores_see_one_another_s_writes,
    two_stores_can_write_at_once,
    what_was_committed_outlives_the_store,
    a_closed_store_refuses_everything,
    closing_twice_is_fine,
];

fn a_thousand_runs_are_written_by_sixteen_threads(case: &Case) {
    let (store, next) = (&*case.store, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= 1_000 {
                        break;
                    }
                    let run = format!("r{n}");
                    commit(store, of(append(&run, 0, &["1", "2"])));
                    commit(store, of(append(&run, 2, &["3"])));
                    // One's own writes are seen at once.
                    assert_eq!(told(store, &run, 0, 9), ["1", "2", "3"]);
                }
            });
        }
    });
    let mut filter = RunFilter::default();
    filter.limit = Some(u32::MAX);
    let runs = block_on(store.runs(&filter)).unwrap();
    assert_eq!(runs.len(), 1_000);
    assert!(runs.iter().all(|info| info.seq == 3));
}

fn many_commits_await_each_other_on_one_thread(case: &Case) {
    let store = &*case.store;
    let commits = (0..500).map(|n| store.commit(of(append("r", n, &["x"]))));
    let results = block_on(futures_util::future::join_all(commits));
    // Written in the order of the calls, so each finds the sequence it expects.
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(told(store, "r", 0, 999).len(), 500);
}

fn of_many_writers_at_one_place_one_succeeds(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1"])));
    let won = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let won = &won;
            scope.spawn(move || match block_on(store.commit(of(append("r", 1, &[&n.to_string()])))) {
                Ok(()) => _ = won.fetch_add(1, Ordering::Relaxed),
                Err(error) => assert!(error.is(codes::SEQUENCE_CONFLICT), "{error:?}"),
            });
        }
    });
    assert_eq!((won.into_inner(), info(store, "r").unwrap().seq), (1, 2));
}

fn a_refusal_harms_no_neighbour(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1"])));
    // Queued together, so that a store which groups commits groups these.
    let commits = (0..300).map(|n| match n % 3 {
        0 => store.commit(of(append("r", 0, &["again"]))),
        1 => store.commit(of(append(&format!("r{n}"), 0, &["1"]))),
        _ => store.commit(values(&[("s", &n.to_string(), Some(n.into()))])),
    });
    let results = block_on(futures_util::future::join_all(commits));
    for (n, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(n % 3, 0),
            Err(error) => assert!(n % 3 == 0 && error.is(codes::RUN_EXISTS), "{n}: {error:?}"),
        }
    }
    assert_eq!(block_on(store.keys("s", "")).unwrap().len(), 100);
    assert!((0..300).filter(|n| n % 3 == 1).all(|n| info(store, &format!("r{n}")).is_some()));
    assert_eq!(told(store, "r", 0, 9), ["1"]);
}

fn a_commit_is_written_even_if_nobody_awaits_it(case: &Case) {
    let store = &*case.store;
    drop(store.commit(of(append("r", 0, &["1"]))));
    commit(store, of(append("r", 1, &["2"])));
    assert_eq!(told(store, "r", 0, 9), ["1", "2"]);
}

fn two_stores_see_one_another_s_writes(case: &Case) {
    let Some(second) = case.second() else { return };
    let (first, second) = (&*case.store, &*second);
    commit(first, of(append("r", 0, &["1"])));
    assert_eq!(told(second, "r", 0, 9), ["1"]);
    commit(second, of(append("r", 1, &["2"])));
    assert_eq!(told(first, "r", 0, 9), ["1", "2"]);
    refuse(first, codes::SEQUENCE_CONFLICT, of(append("r", 1, &["other"])));

    let epoch = block_on(second.claim(&"r".into(), "there", 0)).unwrap();
    refuse(first, codes::SEQUENCE_CONFLICT, of(append("r", 2, &["fenced"])));
    let mut next = append("r", 2, &["3"]);
    next.epoch = epoch;
    commit(second, of(next));

    commit(second, change("t", 1, |thread| thread.claim = Some("r".into())));
    let mut batch = change("t", 2, |thread| thread.claim = Some("q".into()));
    batch.run = Some(append("q", 0, &["1"]));
    refuse(first, codes::THREAD_BUSY, batch);
}

fn two_stores_can_write_at_once(case: &Case) {
    let Some(second) = case.second() else { return };
    std::thread::scope(|scope| {
        for (name, store) in [("a", &case.store), ("b", &second)] {
            for n in 0..4 {
                scope.spawn(move || {
                    let run = format!("{name}{n}");
                    (0..50).for_each(|seq| commit(&**store, of(append(&run, seq, &["x"]))));
                });
            }
        }
    });
    for run in ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"] {
        assert_eq!(told(&*case.store, run, 0, 99).len(), 50);
    }
}

fn what_was_committed_outlives_the_store(case: &Case) {
    if !case.store.capabilities().durable {
        return;
    }
    let first = &*case.store;
    let large = "w".repeat(100_000);
    let mut batch = change("t", 1, |thread| {
        (thread.claim, thread.append) = (Some("r".into()), messages(&["hello"]));
    });
    batch.run = Some(append("r", 0, &["1", &large]));
    batch.values = values(&[("s", "k", Some(true.into()))]).values;
    batch.blobs = vec![("h".into(), b"content".as_slice().into())];
    commit(first, batch);
    block_on(first.heartbeat("here", 100)).unwrap();
    block_on(first.close()).unwrap();

    let second = case.second().expect("durable stores are shared");
    assert_eq!(told(&*second, "r", 0, 9), ["1", &large]);
    assert_eq!(block_on(second.messages(&"t".into(), 0, 9)).unwrap()[0].text(), "hello");
    assert_eq!(block_on(second.thread(&"t".into())).unwrap().unwrap().active_run, Some("r".into()));
    assert_eq!(block_on(second.get("s", "k")).unwrap(), Some(true.into()));
    assert_eq!(block_on(second.blob("h")).unwrap().as_deref(), Some(b"content".as_slice()));
    let error = block_on(second.claim(&"r".into(), "there", 0)).unwrap_err();
    assert!(error.is(codes::RUN_ACTIVE), "{error:?}");
}

fn a_closed_store_refuses_everything(case: &Case) {
    let store = &*case.store;
    let queued = store.commit(of(append("r", 0, &["1"])));
    block_on(store.close()).unwrap();
    // What was queued before is written.
    block_on(queued).unwrap();
    let (run, thread) = ("r".into(), "t".into());
    let errors = [
        refuse(store, codes::ENGINE_CLOSED, of(append("r", 1, &["2"]))),
        block_on(store.events(&run, 0, 1)).unwrap_err(),
        block_on(store.run(&run)).unwrap_err(),
        block_on(store.runs(&RunFilter::default())).unwrap_err(),
        block_on(store.delete_run(&run)).unwrap_err(),
        block_on(store.thread(&thread)).unwrap_err(),
        block_on(store.threads(None, 0, 1)).unwrap_err(),
        block_on(store.messages(&thread, 0, 1)).unwrap_err(),
        block_on(store.delete_thread(&thread)).unwrap_err(),
        block_on(store.get("s", "k")).unwrap_err(),
        block_on(store.keys("s", "")).unwrap_err(),
        block_on(store.blob("h")).unwrap_err(),
        block_on(store.claim(&run, "here", 0)).unwrap_err(),
        block_on(store.heartbeat("here", 0)).unwrap_err(),
        block_on(store.release(&run, 1)).unwrap_err(),
        block_on(store.retire("here")).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is(codes::ENGINE_CLOSED), "{error:?}");
    }
}

fn closing_twice_is_fine(case: &Case) {
    let store = &*case.store;
    let (first, second) = (store.close(), store.close());
    block_on(second).unwrap();
    block_on(first).unwrap();
    block_on(store.close()).unwrap();
}
