//! Journals, and the lines about runs.

use lomusai_core::storage::Store;
use lomusai_core::testing::block_on;
use lomusai_wire::{Parent, RunFilter, RunStatus, codes};

use crate::Case;
use crate::kit::{append, append_as, change, commit, event, info, line, messages, more, of, refuse, told, values};

crate::for_each_store![
    a_journal_reads_back_as_it_was_written,
    events_are_read_in_pages,
    the_line_about_a_run_is_the_last_one_written,
    a_line_changes_without_an_event,
    a_line_that_is_not_written_again_follows_the_events,
    only_a_line_can_be_first_or_alone,
    a_run_cannot_be_created_twice,
    a_run_that_is_not_there_takes_no_events,
    a_run_that_is_not_there_has_no_journal,
    a_second_writer_at_the_same_place_is_refused,
    a_gap_in_the_numbers_is_refused,
    nothing_of_a_refused_batch_is_written,
    runs_list_newest_first_whatever_their_clocks_say,
    runs_list_by_any_of_several_statuses,
    runs_list_by_agent_thread_and_parent,
    runs_list_in_pages,
    a_deleted_run_leaves_nothing_and_its_id_is_free,
    large_events_read_back_as_they_were_written,
    deleting_a_run_keeps_what_others_have,
    a_compacted_journal_reads_as_before_and_goes_on,
    a_run_that_has_not_ended_is_not_compacted,
    ids_and_texts_are_any_unicode,
];

fn a_journal_reads_back_as_it_was_written(case: &Case) {
    let store = &*case.store;
    let written = [event("r", 1, "one"), event("r", 2, "two")];
    commit(store, of(append("r", 0, &["one", "two"])));
    let read = block_on(store.events(&"r".into(), 0, 10)).unwrap();
    assert!(read.iter().eq(written.iter().map(|event| &**event)), "{read:?}");
}

fn events_are_read_in_pages(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1", "2", "3"])));
    commit(store, of(append("r", 3, &["4", "5"])));
    assert_eq!(told(store, "r", 0, 2), ["1", "2"]);
    assert_eq!(told(store, "r", 2, 2), ["3", "4"]);
    assert_eq!(told(store, "r", 4, usize::MAX), ["5"]);
    assert_eq!(told(store, "r", 5, 2), [""; 0]);
    assert_eq!(told(store, "r", u64::MAX, 2), [""; 0]);
    assert_eq!(told(store, "r", 0, 0), [""; 0]);
}

fn the_line_about_a_run_is_the_last_one_written(case: &Case) {
    let store = &*case.store;
    let mut first = append("r", 0, &["1"]);
    line(&mut first).thread = Some("t".into());
    line(&mut first).parent = Some(Parent::new("p".into(), "1.0".into()));
    let written = line(&mut first).clone();
    commit(store, of(first));
    assert_eq!(info(store, "r"), Some(written.clone()));

    let mut second = append_as(RunStatus::Blocked, "r", 1, &["2"]);
    (line(&mut second).thread, line(&mut second).parent) = (written.thread, written.parent);
    (line(&mut second).blocked_by, line(&mut second).recoveries) = (Some("tool `fetch`".into()), 3);
    let written = line(&mut second).clone();
    commit(store, of(second));
    assert_eq!(info(store, "r"), Some(written));
    assert_eq!(info(store, "other"), None);
}

fn a_line_changes_without_an_event(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1"])));
    commit(store, of(append_as(RunStatus::Poisoned, "r", 1, &[])));
    assert_eq!(info(store, "r").unwrap().status, RunStatus::Poisoned);
    assert_eq!(told(store, "r", 0, 9), ["1"]);
}

fn a_line_that_is_not_written_again_follows_the_events(case: &Case) {
    let store = &*case.store;
    let mut first = append("r", 0, &["1"]);
    line(&mut first).metadata.insert("of".into(), "ours".into());
    let mut written = line(&mut first).clone();
    commit(store, of(first));
    commit(store, of(append("other", 0, &["o"])));
    // Large ones lie elsewhere.
    let large = "x".repeat(100_000);
    for (seq, says) in [(1, &["2", "3"] as &[&str]), (3, &["4", &large]), (5, &["6"])] {
        commit(store, of(more("r", seq, says)));
        (written.seq, written.updated_at_ms) = (seq + says.len() as u64, 1_000 + seq + says.len() as u64);
        assert_eq!(info(store, "r"), Some(written.clone()));
        let listed = block_on(store.runs(&RunFilter::default())).unwrap();
        assert_eq!(listed.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, written.seq]);
        refuse(store, codes::SEQUENCE_CONFLICT, of(more("r", seq, says)));
        refuse(store, codes::SEQUENCE_CONFLICT, of(append("r", seq, says)));
    }
    assert_eq!(block_on(store.claim(&"r".into(), "here", 0)).unwrap(), 2);
    refuse(store, codes::SEQUENCE_CONFLICT, of(more("r", 6, &["under an old lease"])));

    let mut last = append_as(RunStatus::Completed, "r", 6, &["7"]);
    last.epoch = 2;
    let written = line(&mut last).clone();
    commit(store, of(last));
    assert_eq!(info(store, "r"), Some(written));
    assert_eq!(told(store, "r", 0, 9), ["1", "2", "3", "4", &large, "6", "7"]);
}

fn only_a_line_can_be_first_or_alone(case: &Case) {
    let store = &*case.store;
    refuse(store, codes::INTERNAL, of(more("r", 0, &["1"])));
    assert_eq!(info(store, "r"), None);
    commit(store, of(append("r", 0, &["1"])));
    refuse(store, codes::INTERNAL, of(more("r", 1, &[])));
    let mut stranger = append("r", 1, &["2"]);
    line(&mut stranger).run_id = "other".into();
    refuse(store, codes::INTERNAL, of(stranger));
    assert_eq!(told(store, "r", 0, 9), ["1"]);
}

fn a_run_cannot_be_created_twice(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1"])));
    let error = refuse(store, codes::RUN_EXISTS, of(append("r", 0, &["other"])));
    assert_eq!(error.body().details["run_id"], "r");
    assert_eq!(told(store, "r", 0, 9), ["1"]);
}

fn a_run_that_is_not_there_takes_no_events(case: &Case) {
    refuse(&*case.store, codes::RUN_UNKNOWN, of(append("r", 1, &["2"])));
    assert_eq!(info(&*case.store, "r"), None);
}

fn a_run_that_is_not_there_has_no_journal(case: &Case) {
    let error = block_on(case.store.events(&"r".into(), 0, 9)).unwrap_err();
    assert!(error.is(codes::RUN_UNKNOWN), "{error:?}");
    assert_eq!(error.body().details["run_id"], "r");
}

fn a_second_writer_at_the_same_place_is_refused(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1"])));
    commit(store, of(append("r", 1, &["2"])));
    let error = refuse(store, codes::SEQUENCE_CONFLICT, of(append("r", 1, &["other"])));
    assert_eq!(error.body().details["run_id"], "r");
    refuse(store, codes::SEQUENCE_CONFLICT, of(append("r", 3, &["early"])));
    assert_eq!(told(store, "r", 0, 9), ["1", "2"]);
}

fn a_gap_in_the_numbers_is_refused(case: &Case) {
    let store = &*case.store;
    let mut gap = append("r", 0, &["1", "2"]);
    gap.events = [event("r", 1, "1"), event("r", 3, "3")].into();
    refuse(store, codes::INTERNAL, of(gap));
    let mut ahead = append("r", 0, &["1"]);
    line(&mut ahead).seq = 2;
    refuse(store, codes::INTERNAL, of(ahead));
    assert_eq!(info(store, "r"), None);
}

fn nothing_of_a_refused_batch_is_written(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("r", 0, &["1"])));
    commit(store, change("busy", 1, |thread| thread.claim = Some("r".into())));

    // Once refused for its run, once for its thread.
    for (run, thread, code) in [("r", "free", codes::RUN_EXISTS), ("new", "busy", codes::THREAD_BUSY)] {
        let mut batch = change(thread, 2, |change| {
            change.claim = Some("new".into());
            change.append = messages(&["hello"]);
        });
        batch.run = Some(append(run, 0, &["x"]));
        batch.values = values(&[("s", "k", Some(1.into()))]).values;
        batch.blobs = vec![("h".into(), b"content".as_slice().into())];
        refuse(store, code, batch);
    }

    assert_eq!(told(store, "r", 0, 9), ["1"]);
    assert_eq!(info(store, "new"), None);
    assert_eq!(block_on(store.thread(&"free".into())).unwrap(), None);
    let busy = block_on(store.thread(&"busy".into())).unwrap().unwrap();
    assert_eq!((busy.messages, busy.updated_at_ms, busy.active_run), (0, 1, Some("r".into())));
    assert_eq!(block_on(store.get("s", "k")).unwrap(), None);
    assert_eq!(block_on(store.blob("h")).unwrap(), None);
}

fn listed(case: &Case, edit: impl FnOnce(&mut RunFilter)) -> Vec<String> {
    let mut filter = RunFilter::default();
    edit(&mut filter);
    block_on(case.store.runs(&filter)).unwrap().into_iter().map(|info| info.run_id.to_string()).collect()
}

fn runs_list_newest_first_whatever_their_clocks_say(case: &Case) {
    for (run, created_at_ms) in [("b", 5), ("a", 5), ("c", 1)] {
        let mut append = append(run, 0, &["1"]);
        line(&mut append).created_at_ms = created_at_ms;
        commit(&*case.store, of(append));
    }
    // What happens to a run later does not move it.
    commit(&*case.store, of(append_as(RunStatus::Suspended, "b", 1, &["2"])));
    assert_eq!(listed(case, |_| {}), ["c", "a", "b"]);
}

fn runs_list_by_any_of_several_statuses(case: &Case) {
    use RunStatus::{Completed, Failed, Running, Suspended};
    for (run, status) in [("a", Running), ("b", Suspended), ("c", Failed), ("d", Running), ("e", Suspended)] {
        commit(&*case.store, of(append_as(status, run, 0, &["1"])));
    }
    assert_eq!(listed(case, |filter| filter.status = vec![Running]), ["d", "a"]);
    assert_eq!(listed(case, |filter| filter.status = vec![Suspended, Failed, Suspended]), ["e", "c", "b"]);
    assert_eq!(listed(case, |filter| filter.status = vec![Completed]), [""; 0]);
    commit(&*case.store, of(append_as(Completed, "a", 1, &["2"])));
    assert_eq!(listed(case, |filter| filter.status = vec![Completed, Running]), ["d", "a"]);
    assert_eq!(listed(case, |filter| (filter.status, filter.limit) = (vec![Suspended, Running], Some(2))), ["e", "d"]);
}

fn runs_list_by_agent_thread_and_parent(case: &Case) {
    for (run, agent, thread, parent) in [
        ("a", "x", Some("t"), None),
        ("b", "x", None, Some("a")),
        ("c", "y", Some("t"), Some("a")),
        ("d", "y", None, None),
    ] {
        let mut append = append(run, 0, &["1"]);
        let info = line(&mut append);
        info.agent = agent.into();
        info.thread = thread.map(Into::into);
        info.parent = parent.map(|parent: &str| Parent::new(parent.into(), "1.0".into()));
        commit(&*case.store, of(append));
    }
    assert_eq!(listed(case, |filter| filter.agent = Some("x".into())), ["b", "a"]);
    assert_eq!(listed(case, |filter| filter.thread = Some("t".into())), ["c", "a"]);
    assert_eq!(listed(case, |filter| filter.parent = Some("a".into())), ["c", "b"]);
    let all = |filter: &mut RunFilter| {
        (filter.agent, filter.thread, filter.parent) = (Some("y".into()), Some("t".into()), Some("a".into()));
        filter.status = vec![RunStatus::Running, RunStatus::Failed];
    };
    assert_eq!(listed(case, all), ["c"]);
    // Text is only ever compared.
    assert_eq!(listed(case, |filter| filter.agent = Some("x' OR 'x' = 'x".into())), [""; 0]);
}

fn runs_list_in_pages(case: &Case) {
    for n in 0..120 {
        commit(&*case.store, of(append(&format!("r{n}"), 0, &["1"])));
    }
    assert_eq!(listed(case, |_| {}).len(), 100);
    assert_eq!(listed(case, |filter| filter.limit = Some(200)).len(), 120);
    assert_eq!(listed(case, |filter| (filter.limit, filter.offset) = (Some(2), Some(1))), ["r118", "r117"]);
    assert_eq!(listed(case, |filter| filter.offset = Some(119)), ["r0"]);
    assert_eq!(listed(case, |filter| filter.limit = Some(0)), [""; 0]);
}

fn a_deleted_run_leaves_nothing_and_its_id_is_free(case: &Case) {
    let store = &*case.store;
    let mut batch = change("t", 1, |thread| thread.claim = Some("r".into()));
    batch.run = Some(append("r", 0, &["1", "2"]));
    commit(store, batch);
    assert!(block_on(store.delete_run(&"r".into())).unwrap());
    assert!(!block_on(store.delete_run(&"r".into())).unwrap());
    assert_eq!(info(store, "r"), None);
    assert_eq!(listed(case, |_| {}), [""; 0]);
    assert_eq!(block_on(store.thread(&"t".into())).unwrap().unwrap().active_run, None);
    refuse(store, codes::RUN_UNKNOWN, of(append("r", 2, &["3"])));
    commit(store, of(append("r", 0, &["again"])));
    assert_eq!(told(store, "r", 0, 9), ["again"]);
}

fn large_events_read_back_as_they_were_written(case: &Case) {
    let store = &*case.store;
    // Around 64 KiB, beyond which a store may keep them elsewhere, and far above.
    let texts: Vec<String> = [65_000, 65_536, 66_000, 3_000_000].map(|length| "é".repeat(length / 2)).into();
    let says: Vec<&str> = texts.iter().map(String::as_str).collect();
    commit(store, of(append("r", 0, &says)));
    assert_eq!(told(store, "r", 0, 9), says);
}

fn deleting_a_run_keeps_what_others_have(case: &Case) {
    let store = &*case.store;
    let large = "x".repeat(100_000);
    let message = messages(&[&large]);
    let mut batch = change("t", 1, |thread| thread.append = message.clone());
    batch.run = Some(append("a", 0, &["1", &large]));
    batch.blobs = vec![("h".into(), b"content".as_slice().into())];
    commit(store, batch);
    commit(store, of(append("b", 0, &["1", &large])));
    assert!(block_on(store.delete_run(&"a".into())).unwrap());
    assert_eq!(told(store, "b", 0, 9), ["1", &large]);
    assert_eq!(block_on(store.messages(&"t".into(), 0, 9)).unwrap(), message);
    assert_eq!(block_on(store.blob("h")).unwrap().as_deref(), Some(b"content".as_slice()));
}

fn ids_and_texts_are_any_unicode(case: &Case) {
    let store = &*case.store;
    for id in
        ["", " ", "r/1.0/2.0", "ключ", "🦀'; DROP TABLE runs; --", "nul\0inside", "nul\0other", "%_*?", "é", "e\u{301}"]
    {
        let text = format!("{id} \0 \u{2028} \u{10ffff} \" \\");
        let mut batch = change(id, 1, |thread| {
            (thread.claim, thread.resource) = (Some(id.into()), Some(id.into()));
            thread.append = messages(&[&text]);
        });
        batch.run = Some(append(id, 0, &[&text]));
        batch.values = values(&[(id, id, Some(text.as_str().into()))]).values;
        commit(store, batch);

        assert_eq!(told(store, id, 0, 9), [text.as_str()]);
        assert_eq!(block_on(store.messages(&id.into(), 0, 9)).unwrap()[0].text(), text);
        let thread = block_on(store.thread(&id.into())).unwrap().unwrap();
        assert_eq!((thread.active_run, thread.resource.as_deref()), (Some(id.into()), Some(id)));
        assert_eq!(block_on(store.threads(Some(id), 0, 9)).unwrap().len(), 1);
        assert_eq!(block_on(store.get(id, id)).unwrap(), Some(text.into()));
        assert_eq!(block_on(store.keys(id, id)).unwrap(), [id]);
        assert_eq!(block_on(store.claim(&id.into(), id, 0)).unwrap(), 2);
    }
}

fn a_compacted_journal_reads_as_before_and_goes_on(case: &Case) {
    let store = &*case.store;
    let large = "x".repeat(100_000);
    let texts = ["1", "2\n", &large, "4", "5"];
    commit(store, of(append("r", 0, &texts[..2])));
    commit(store, of(append_as(RunStatus::Failed, "r", 2, &texts[2..])));
    commit(store, of(append("other", 0, &["o"])));
    let all = block_on(store.events(&"r".into(), 0, usize::MAX)).unwrap();
    compact(store, u64::MAX);
    let pages_of_two = |store| {
        let starts = [0, 2, 4];
        starts.iter().flat_map(|after| told(store, "r", *after, 2)).collect::<Vec<_>>()
    };
    assert_eq!(block_on(store.events(&"r".into(), 0, usize::MAX)).unwrap(), all);
    assert_eq!(pages_of_two(store), texts);
    assert_eq!(told(store, "r", 3, 1), ["4"]);
    assert_eq!(told(store, "r", 5, 9), [""; 0]);
    assert_eq!(told(store, "r", 0, 0), [""; 0]);

    // Taken up again, and ended again.
    commit(store, of(append("r", 5, &[])));
    assert_eq!(info(store, "r").unwrap().seq, 5);
    commit(store, of(more("r", 5, &["6"])));
    commit(store, of(append_as(RunStatus::Completed, "r", 6, &["7"])));
    compact(store, u64::MAX);
    compact(store, u64::MAX);
    assert_eq!(told(store, "r", 4, 9), ["5", "6", "7"]);
    refuse(store, codes::SEQUENCE_CONFLICT, of(append("r", 5, &["again"])));

    assert!(block_on(store.delete_run(&"r".into())).unwrap());
    assert!(block_on(store.events(&"r".into(), 0, 9)).unwrap_err().is(codes::RUN_UNKNOWN));
    commit(store, of(append("r", 0, &["new"])));
    assert_eq!(told(store, "r", 0, 9), ["new"]);
    assert_eq!(told(store, "other", 0, 9), ["o"]);
}

fn a_run_that_has_not_ended_is_not_compacted(case: &Case) {
    let store = &*case.store;
    commit(store, of(append("at work", 0, &["1"])));
    commit(store, of(append_as(RunStatus::Suspended, "waits", 0, &["1"])));
    commit(store, of(append_as(RunStatus::Completed, "late", 0, &["1"])));
    let late = info(store, "late").unwrap().updated_at_ms;
    assert_eq!(compact(store, late), 0);
    let _ = compact(store, u64::MAX);
    commit(store, of(append("at work", 1, &["2"])));
    assert_eq!(told(store, "at work", 0, 9), ["1", "2"]);
}

/// All of it, a run at a time. Gives how many journals take less room.
fn compact(store: &dyn Store, before_ms: u64) -> usize {
    let (mut runs, mut next) = (0, Some(0));
    while let Some(from) = next {
        let done = block_on(store.compact(before_ms, from, 1)).unwrap();
        (runs, next) = (runs + done.runs, done.next);
    }
    runs
}
