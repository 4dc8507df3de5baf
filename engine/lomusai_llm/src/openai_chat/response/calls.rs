//! Which call a piece belongs to. Servers leave out, repeat or change what should tell: index, id and name.

use std::collections::VecDeque;

use lomusai_wire::ModelChunk;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::wire::{CallDelta, Field, FunctionDelta};

/// The calls of one answer.
#[derive(Default)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    /// The calls that the last event spoke of, by position.
    last_event: Vec<usize>,
    /// How many have been passed on.
    shown: u32,
}

struct Slot {
    /// The server's index.
    index: Option<u64>,
    id: Option<String>,
    name: String,
    arguments: String,
    /// Our index, once passed on. A call waits for its name, since until then it may turn out to be the rest of another.
    shown: Option<u32>,
    /// Fields that go back with the call.
    own: Map<String, Value>,
}

struct Piece {
    own: Map<String, Value>,
    index: Option<u64>,
    id: Option<String>,
    name: String,
    arguments: String,
}

impl Calls {
    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes the calls of one event. `whole` says that each is a call of its own.
    pub(super) fn push(&mut self, deltas: Vec<CallDelta<'_>>, whole: bool, chunks: &mut VecDeque<ModelChunk>) {
        let many = deltas.len() > 1;
        let mut touched = Vec::new();
        for (position, delta) in deltas.into_iter().enumerate() {
            let piece = Piece::new(delta);
            let found = if whole { None } else { self.find(&piece, position, many, &touched) };
            let place = found.unwrap_or_else(|| self.open(&piece));
            self.add(place, piece, chunks);
            touched.push(place);
        }
        if !touched.is_empty() {
            self.last_event = touched;
        }
    }

    /// Passes on what waited for a name in vain.
    pub(super) fn end(&mut self, name: &str, chunks: &mut VecDeque<ModelChunk>) {
        for place in 0..self.slots.len() {
            if self.slots[place].shown.is_some() {
                continue;
            }
            let rest = self.slots[place].arguments.clone();
            // A wrong index on the later pieces of a call looks like a call without a name.
            let whole = (0..place).rev().find(|before| {
                let before = &self.slots[*before];
                before.shown.is_some() && !before.is_complete() && is_complete(&format!("{}{rest}", before.arguments))
            });
            match whole {
                Some(before) => {
                    let rest = Piece { own: Map::new(), index: None, id: None, name: String::new(), arguments: rest };
                    self.add(before, rest, chunks);
                }
                None => self.show(place, chunks),
            }
        }
        for slot in &mut self.slots {
            if let (Some(index), false) = (slot.shown, slot.own.is_empty()) {
                let fields = std::mem::take(&mut slot.own);
                chunks.push_back(ModelChunk::Fields { index: Some(index), provider: name.to_owned(), fields });
            }
        }
    }

    fn open(&mut self, piece: &Piece) -> usize {
        self.slots.push(Slot {
            index: piece.index,
            id: None,
            name: String::new(),
            arguments: String::new(),
            shown: None,
            own: Map::new(),
        });
        self.slots.len() - 1
    }

    /// The call that a piece continues, if it continues one.
    fn find(&self, piece: &Piece, position: usize, many: bool, touched: &[usize]) -> Option<usize> {
        let by_index = piece.index.and_then(|index| self.slots.iter().rposition(|slot| slot.index == Some(index)));
        let by_id =
            || piece.id.as_ref().and_then(|id| self.slots.iter().rposition(|slot| slot.id.as_ref() == Some(id)));
        let by_position = || {
            let nearest = if many { self.last_event.get(position) } else { self.last_event.last() };
            let same_event = touched.last().filter(|_| piece.name.is_empty());
            nearest.or(same_event).copied().filter(|_| piece.index.is_none())
        };
        let place = by_index.or_else(by_id).or_else(by_position)?;
        self.slots[place].continues_with(piece, touched.contains(&place)).then_some(place)
    }

    fn add(&mut self, place: usize, piece: Piece, chunks: &mut VecDeque<ModelChunk>) {
        let slot = &mut self.slots[place];
        slot.own.extend(piece.own);
        // Some servers send the whole call once more at the end.
        let repeated = slot.arguments == piece.arguments && slot.is_complete();
        let arguments = if repeated { String::new() } else { piece.arguments };
        slot.arguments.push_str(&arguments);
        let id = piece.id.filter(|_| slot.id.is_none());
        if id.is_some() {
            slot.id.clone_from(&id);
        }
        let named = !piece.name.is_empty() && piece.name != slot.name;
        if named {
            slot.name.push_str(&piece.name);
        }
        match slot.shown {
            Some(index) => {
                let name = named.then(|| slot.name.clone());
                if name.is_some() || id.is_some() || !arguments.is_empty() {
                    chunks.push_back(ModelChunk::ToolCallDelta { index, name, id, arguments });
                }
            }
            None if slot.name.is_empty() => {}
            None => self.show(place, chunks),
        }
    }

    fn show(&mut self, place: usize, chunks: &mut VecDeque<ModelChunk>) {
        let (index, slot) = (self.shown, &mut self.slots[place]);
        self.shown += 1;
        slot.shown = Some(index);
        let (name, id, arguments) = (Some(slot.name.clone()), slot.id.clone(), slot.arguments.clone());
        chunks.push_back(ModelChunk::ToolCallDelta { index, name, id, arguments });
    }
}

impl Slot {
    fn is_complete(&self) -> bool {
        is_complete(&self.arguments)
    }

    /// Whether the piece is more of this call, rather than the beginning of another.
    fn continues_with(&self, piece: &Piece, same_event: bool) -> bool {
        let named_again = !piece.name.is_empty() && !self.name.is_empty();
        // One event does not name one call twice.
        if named_again && same_event {
            return false;
        }
        let moved = matches!((self.index, piece.index), (Some(ours), Some(theirs)) if ours != theirs);
        match (&self.id, &piece.id) {
            // Another id with a name is another call. Without one, it is a server that makes up an id for every piece.
            (Some(ours), Some(theirs)) if ours != theirs => piece.name.is_empty() && !self.is_complete(),
            // Nothing tells but a name, where there was one already.
            _ if !named_again => true,
            // Providers repeat ids: the same one under another index is another call.
            _ if moved => false,
            _ if self.name == piece.name => {
                piece.arguments.trim().is_empty() || self.arguments == piece.arguments || !self.is_complete()
            }
            // A name that comes in pieces, which only an index can hold together.
            _ => self.arguments.is_empty() && self.id.is_some() && piece.index.is_some(),
        }
    }
}

impl Piece {
    fn new(delta: CallDelta<'_>) -> Self {
        let function = delta.function.unwrap_or_default();
        let text = |field: Option<Field<'_>>| match field {
            Some(Field::Text(text)) => text.into_owned(),
            Some(Field::Other(Value::Number(number))) => number.to_string(),
            _ => String::new(),
        };
        let own = delta.extra_content.filter(|extra| !extra.is_null());
        Self {
            own: own.map(|extra| ("extra_content".to_owned(), extra)).into_iter().collect(),
            index: delta.index.as_ref().and_then(Value::as_u64),
            id: Some(text(delta.id)).filter(|id| !id.is_empty()),
            arguments: FunctionDelta::arguments(&function),
            name: text(function.name),
        }
    }
}

/// Whether arguments are whole: an object that nothing can be added to.
fn is_complete(arguments: &str) -> bool {
    arguments.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}
