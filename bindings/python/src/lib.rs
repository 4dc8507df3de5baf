//! Lomusai for Python.
