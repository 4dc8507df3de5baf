//! What every store does, one sentence a test, run against each store there is. What only some can is asked of their capabilities.

#[path = "../kit/mod.rs"]
mod kit;
mod leases;
mod runs;
mod threads;
mod values;
mod whole;

use std::sync::Arc;

use lomusai_core::storage::{MemoryStore, Store};

/// A store under test.
pub(crate) struct Case {
    pub(crate) store: Arc<dyn Store>,
    /// Opens its contents once more, as another engine or process would.
    again: Option<Box<dyn Fn() -> Arc<dyn Store>>>,
}

impl Case {
    fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::new()), again: None }
    }

    #[cfg(feature = "sqlite")]
    fn sqlite() -> Self {
        use lomusai_stores::sqlite::{SqliteOptions, SqliteStore};

        let folder = tempfile::tempdir().unwrap();
        let open = move || -> Arc<dyn Store> {
            Arc::new(SqliteStore::open(folder.path().join("store.db"), SqliteOptions::default()).unwrap())
        };
        Self { store: open(), again: Some(Box::new(open)) }
    }

    /// A second store with the same contents, where stores can be shared.
    pub(crate) fn second(&self) -> Option<Arc<dyn Store>> {
        assert_eq!(self.store.capabilities().shared, self.again.is_some());
        self.again.as_ref().map(|open| open())
    }
}

/// Makes a test for each store of each behaviour named. One that is not named is dead code, which the lints refuse.
macro_rules! for_each_store {
    ($($behaviour:ident,)*) => {
        mod memory {
            $(#[test] fn $behaviour() { super::$behaviour(&crate::Case::memory()); })*
        }
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(#[test] fn $behaviour() { super::$behaviour(&crate::Case::sqlite()); })*
        }
    };
}
use for_each_store;
