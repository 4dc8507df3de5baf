//! Conversations.

use lomusai_core::storage::ThreadInfo;
use lomusai_core::testing::block_on;
use lomusai_wire::{RunStatus, codes};

use crate::Case;
use crate::kit::{append, append_as, change, commit, info, messages, of, refuse};

crate::for_each_store![
    a_thread_is_created_by_its_first_change,
    messages_are_appended_and_read_in_pages,
    a_large_message_reads_back_as_it_was_written,
    a_claimed_thread_refuses_other_runs,
    a_claim_may_be_repeated_by_its_run,
    a_claim_is_refused_when_the_thread_was_written_since_it_was_read,
    a_thread_is_released_by_its_run_only,
    a_claim_ends_with_its_run,
    a_run_may_claim_append_and_release_at_once,
    threads_list_by_latest_change,
    a_deleted_thread_leaves_nothing,
    a_thread_at_work_is_not_deleted,
];

fn thread(case: &Case, id: &str) -> Option<ThreadInfo> {
    block_on(case.store.thread(&id.into())).unwrap()
}

fn texts(case: &Case, id: &str, from: u64, limit: usize) -> Vec<String> {
    block_on(case.store.messages(&id.into(), from, limit)).unwrap().iter().map(|message| message.text()).collect()
}

fn a_thread_is_created_by_its_first_change(case: &Case) {
    assert_eq!(thread(case, "t"), None);
    assert_eq!(texts(case, "t", 0, 9), [""; 0]);
    commit(&*case.store, change("t", 7, |thread| thread.resource = Some("ann".into())));
    assert_eq!(thread(case, "t"), Some(ThreadInfo::new("t".into(), Some("ann".into()), 7)));
    // Who owns it was settled then.
    commit(&*case.store, change("t", 8, |thread| thread.resource = Some("bob".into())));
    let later = thread(case, "t").unwrap();
    assert_eq!((later.resource.as_deref(), later.created_at_ms, later.updated_at_ms), (Some("ann"), 7, 8));
}

fn messages_are_appended_and_read_in_pages(case: &Case) {
    commit(&*case.store, change("t", 1, |thread| thread.append = messages(&["0", "1", "2"])));
    commit(&*case.store, change("u", 1, |thread| thread.append = messages(&["other"])));
    commit(&*case.store, change("t", 2, |thread| thread.append = messages(&["3", "4"])));
    assert_eq!(thread(case, "t").unwrap().messages, 5);
    assert_eq!(texts(case, "t", 0, 2), ["0", "1"]);
    assert_eq!(texts(case, "t", 2, 2), ["2", "3"]);
    assert_eq!(texts(case, "t", 4, usize::MAX), ["4"]);
    assert_eq!(texts(case, "t", 5, 9), [""; 0]);
    assert_eq!(texts(case, "t", 0, 0), [""; 0]);
}

fn a_large_message_reads_back_as_it_was_written(case: &Case) {
    let large = "y".repeat(200_000);
    commit(&*case.store, change("t", 1, |thread| thread.append = messages(&[&large, "small", &large])));
    assert_eq!(texts(case, "t", 0, 9), [&*large, "small", &large]);
}

/// A run that is at work.
fn start(case: &Case, run: &str) {
    commit(&*case.store, of(append(run, 0, &["1"])));
}

fn a_claimed_thread_refuses_other_runs(case: &Case) {
    start(case, "a");
    commit(&*case.store, change("t", 1, |thread| thread.claim = Some("a".into())));
    let mut batch = change("t", 2, |thread| thread.claim = Some("b".into()));
    batch.run = Some(append("b", 0, &["1"]));
    let error = refuse(&*case.store, codes::THREAD_BUSY, batch);
    assert_eq!((&error.body().details["run_id"], &error.body().details["thread"]), (&"a".into(), &"t".into()));
    assert_eq!(info(&*case.store, "b"), None);
    // Without a claim, anybody may write.
    commit(&*case.store, change("t", 3, |thread| thread.append = messages(&["note"])));
    assert_eq!(thread(case, "t").unwrap().active_run, Some("a".into()));
}

fn a_claim_is_refused_when_the_thread_was_written_since_it_was_read(case: &Case) {
    start(case, "r");
    commit(&*case.store, change("t", 1, |thread| thread.append = messages(&["0", "1"])));
    let claim = |read: u64| {
        change("t", 2, |thread| {
            thread.claim = Some("r".into());
            thread.expected_messages = Some(read);
        })
    };
    refuse(&*case.store, codes::SEQUENCE_CONFLICT, claim(0));
    assert_eq!(thread(case, "t").unwrap().active_run, None);
    commit(&*case.store, claim(2));
    assert_eq!(thread(case, "t").unwrap().active_run, Some("r".into()));
}

fn a_claim_may_be_repeated_by_its_run(case: &Case) {
    start(case, "a");
    for _ in 0..2 {
        commit(&*case.store, change("t", 1, |thread| thread.claim = Some("a".into())));
    }
}

fn a_thread_is_released_by_its_run_only(case: &Case) {
    start(case, "a");
    commit(&*case.store, change("t", 1, |thread| thread.claim = Some("a".into())));
    commit(&*case.store, change("t", 2, |thread| thread.release = Some("b".into())));
    assert_eq!(thread(case, "t").unwrap().active_run, Some("a".into()));
    commit(&*case.store, change("t", 3, |thread| thread.release = Some("a".into())));
    assert_eq!(thread(case, "t").unwrap().active_run, None);
    start(case, "b");
    commit(&*case.store, change("t", 4, |thread| thread.claim = Some("b".into())));
}

fn a_claim_ends_with_its_run(case: &Case) {
    start(case, "a");
    commit(&*case.store, change("t", 1, |thread| thread.claim = Some("a".into())));
    // It ends without having let go.
    commit(&*case.store, of(append_as(RunStatus::Failed, "a", 1, &["2"])));
    start(case, "b");
    commit(&*case.store, change("t", 2, |thread| thread.claim = Some("b".into())));
    assert_eq!(thread(case, "t").unwrap().active_run, Some("b".into()));
    // It is deleted.
    block_on(case.store.delete_run(&"b".into())).unwrap();
    start(case, "c");
    commit(&*case.store, change("t", 3, |thread| thread.claim = Some("c".into())));
}

fn a_run_may_claim_append_and_release_at_once(case: &Case) {
    let mut batch = change("t", 1, |thread| {
        (thread.claim, thread.release) = (Some("a".into()), Some("a".into()));
        thread.append = messages(&["hello", "hello yourself"]);
    });
    batch.run = Some(append_as(RunStatus::Completed, "a", 0, &["1"]));
    commit(&*case.store, batch);
    let thread = thread(case, "t").unwrap();
    assert_eq!((thread.active_run, thread.messages), (None, 2));
}

fn threads_list_by_latest_change(case: &Case) {
    for (id, resource, now_ms) in [("b", Some("ann"), 1), ("c", None, 2), ("a", Some("ann"), 1), ("d", Some("bob"), 1)]
    {
        commit(&*case.store, change(id, now_ms, |thread| thread.resource = resource.map(Into::into)));
    }
    let listed = |resource, offset, limit| -> Vec<String> {
        let threads = block_on(case.store.threads(resource, offset, limit)).unwrap();
        threads.iter().map(|info| info.thread.to_string()).collect()
    };
    assert_eq!(listed(None, 0, 9), ["c", "a", "b", "d"]);
    assert_eq!(listed(Some("ann"), 0, 9), ["a", "b"]);
    commit(&*case.store, change("b", 3, |_| {}));
    assert_eq!(listed(None, 0, 9), ["b", "c", "a", "d"]);
    assert_eq!(listed(None, 1, 2), ["c", "a"]);
    assert_eq!(listed(Some("ann"), 1, usize::MAX), ["a"]);
    assert_eq!(listed(Some("eve"), 0, 9), [""; 0]);
}

fn a_deleted_thread_leaves_nothing(case: &Case) {
    let large = "z".repeat(100_000);
    commit(&*case.store, change("t", 1, |thread| thread.append = messages(&["1", &large])));
    commit(&*case.store, change("u", 1, |thread| thread.append = messages(&[&large])));
    assert!(block_on(case.store.delete_thread(&"t".into())).unwrap());
    assert!(!block_on(case.store.delete_thread(&"t".into())).unwrap());
    assert_eq!(thread(case, "t"), None);
    assert_eq!(texts(case, "t", 0, 9), [""; 0]);
    assert_eq!(texts(case, "u", 0, 9), [large]);
    commit(&*case.store, change("t", 2, |thread| thread.append = messages(&["again"])));
    assert_eq!(texts(case, "t", 0, 9), ["again"]);
}

fn a_thread_at_work_is_not_deleted(case: &Case) {
    start(case, "a");
    commit(&*case.store, change("t", 1, |thread| thread.claim = Some("a".into())));
    let error = block_on(case.store.delete_thread(&"t".into())).unwrap_err();
    assert!(error.is(codes::THREAD_BUSY), "{error:?}");
    assert!(thread(case, "t").is_some());
    commit(&*case.store, of(append_as(RunStatus::Cancelled, "a", 1, &["2"])));
    assert!(block_on(case.store.delete_thread(&"t".into())).unwrap());
}
