//! Stores of Lomusai: journals, threads, values and content in SQLite.
