//! The tables of what is looked up at every step: components by name, runs by id.

/// A map whose hash is seeded anew in each process, so that keys that collide cannot be prepared, and that takes a tenth of the time of the
/// standard library's. That one withstands also who can measure how long a lookup takes; here a lookup ends in work that hides it.
pub type Table<K, V> = foldhash::HashMap<K, V>;
