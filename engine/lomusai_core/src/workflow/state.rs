//! What a workflow's run knows: the fold of its journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lomusai_wire::{EffectId, EffectKind, ErrorBody, Outcome, Pending, Usage};
use serde_json::{Map, Value};

use super::plan::Scope;
use crate::models::Cost;
use crate::table::Few;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    Running,
    Closed,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) input: Arc<Value>,
    /// What steps have set. Shared with the effects that are told it.
    pub(super) values: Arc<Map<String, Value>>,
    /// Scopes at work. The first is the workflow's own; places of those that have ended are used again.
    pub(super) scopes: Vec<Option<Running>>,
    /// What follows from what has happened, in order.
    pub(super) todo: VecDeque<Todo>,
    /// Effects that were started or wait.
    pub(super) open: Few<EffectId, Box<Open>>,
    /// Signals that nobody has waited for yet, oldest first.
    pub(super) signals: VecDeque<(String, Value)>,
    pub(super) suspended: bool,
    pub(super) cancelling: bool,
    /// What ends the run as a success before its time.
    pub(super) bailed: Option<Value>,
    pub(super) failure: Option<ErrorBody>,
    /// What failed or was ended with the run, to begin again.
    pub(super) failed: Vec<Place>,
    /// How many child runs of an effect have ended without a result: the next one is another run. Of a question, its last attempt.
    pub(super) lost: BTreeMap<EffectId, u32>,
    pub(super) usage: Usage,
    pub(super) cost: Cost,
    pub(super) outcome: Option<Outcome>,
}

/// A step: which running scope it is in, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) scope: usize,
    pub(super) node: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    /// A step's turn has come.
    Begin(Place),
    /// A loop has run once more: again?
    Decide(Place),
    /// The last of a group's steps has ended.
    End(Place),
}

/// A scope at work.
#[derive(Debug)]
pub(super) struct Running {
    /// Which of the plan's.
    pub(super) scope: usize,
    /// The group it is in.
    pub(super) parent: Option<Place>,
    /// What ids of effects in it begin with: empty, or with a dot at the end.
    pub(super) prefix: String,
    /// Its item's place, or how often the loop had run before.
    pub(super) index: usize,
    /// What steps that wait for nothing are given.
    pub(super) given: Arc<Value>,
    pub(super) nodes: Vec<Step>,
    /// How many steps have not ended.
    pub(super) left: usize,
}

#[derive(Debug)]
pub(super) enum Step {
    /// So many steps before it have not ended.
    Waiting(usize),
    /// Its turn has come, and what is known of it where that is not the first thing that is heard of it.
    ToDo(Option<Box<Turn>>),
    /// It is among the open effects.
    Open,
    /// Steps in it are at work.
    Group(Box<Group>),
    Done(Arc<Value>),
    Skipped,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Turn {
    /// What its `when` said, where that was asked.
    pub(super) when: Option<bool>,
    /// What resumed it.
    pub(super) resume: Option<Arc<Value>>,
    /// The number of its last attempt.
    pub(super) attempts: u32,
    /// How many attempts have failed.
    pub(super) tries: u32,
    /// What it is given in place of what the spec says.
    pub(super) input: Option<Arc<Value>>,
}

impl Turn {
    /// Nothing is known of it.
    pub(super) const FIRST: Self = Self { when: None, resume: None, attempts: 0, tries: 0, input: None };
}

#[derive(Debug)]
pub(super) struct Group {
    /// Those whose turn has not come, the next one last.
    pub(super) items: Vec<Arc<Value>>,
    /// How many have begun.
    pub(super) begun: usize,
    /// Scopes at work, by index.
    pub(super) active: BTreeMap<usize, usize>,
    /// What each came to; of a loop the last one only.
    pub(super) results: Vec<Arc<Value>>,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) place: Place,
    pub(super) kind: EffectKind,
    pub(super) component: Arc<str>,
    pub(super) asks: Asks,
    pub(super) attempt: u32,
    /// How many attempts have failed.
    pub(super) tries: u32,
    pub(super) resume: Option<Arc<Value>>,
    /// What it is given in place of what the spec says.
    pub(super) input: Option<Arc<Value>>,
    pub(super) status: OpenStatus,
}

/// What an effect asks for its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// What the step does.
    Action,
    /// Whether it runs.
    When,
    /// Whether its loop goes on.
    Again,
}

#[derive(Debug, PartialEq)]
pub(super) enum OpenStatus {
    Running,
    /// Until a time: a sleep, or the next attempt.
    Sleeping(u64),
    Waiting(u64),
    Suspended(Box<Pending>),
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::New,
            input: Arc::default(),
            values: Arc::default(),
            scopes: Vec::new(),
            todo: VecDeque::new(),
            open: Few::default(),
            signals: VecDeque::new(),
            suspended: false,
            cancelling: false,
            bailed: None,
            failure: None,
            failed: Vec::new(),
            lost: BTreeMap::new(),
            usage: Usage::default(),
            cost: Cost::default(),
            outcome: None,
        }
    }

    pub(super) fn running(&self, scope: usize) -> &Running {
        self.scopes[scope].as_ref().expect("a step's scope is at work")
    }

    pub(super) fn running_mut(&mut self, scope: usize) -> &mut Running {
        self.scopes[scope].as_mut().expect("a step's scope is at work")
    }

    pub(super) fn step(&self, place: Place) -> &Step {
        &self.running(place.scope).nodes[place.node]
    }

    pub(super) fn step_mut(&mut self, place: Place) -> &mut Step {
        &mut self.running_mut(place.scope).nodes[place.node]
    }

    /// Begins a scope: steps that wait for nothing are to do.
    pub(super) fn enter(&mut self, plan: &Scope, running: Running) -> usize {
        let free = self.scopes.iter().position(Option::is_none);
        let scope = free.unwrap_or_else(|| {
            self.scopes.push(None);
            self.scopes.len() - 1
        });
        for (node, planned) in plan.nodes.iter().enumerate() {
            if planned.after.is_empty() {
                self.todo.push_back(Todo::Begin(Place { scope, node }));
            }
        }
        self.scopes[scope] = Some(running);
        scope
    }

    /// Whether the world works on something, other than letting time pass.
    pub(super) fn is_busy(&self) -> bool {
        self.open.values().any(|open| open.status == OpenStatus::Running || self.ends(open))
    }

    /// Whether it is a child that waits for a command, and that its run, which is told to stop, waits to see end.
    pub(super) fn ends(&self, open: &Open) -> bool {
        self.cancelling && open.kind == EffectKind::Run && matches!(open.status, OpenStatus::Suspended(_))
    }

    pub(super) fn sleeps(&self) -> bool {
        self.open.values().any(|open| matches!(open.status, OpenStatus::Sleeping(_) | OpenStatus::Waiting(_)))
    }
}

impl Running {
    pub(super) fn new(
        scope: usize,
        plan: &Scope,
        parent: Option<Place>,
        prefix: String,
        index: usize,
        given: Arc<Value>,
    ) -> Self {
        let nodes = plan
            .nodes
            .iter()
            .map(|node| if node.after.is_empty() { Step::ToDo(None) } else { Step::Waiting(node.after.len()) })
            .collect();
        Self { scope, parent, prefix, index, given, nodes, left: plan.nodes.len() }
    }
}
