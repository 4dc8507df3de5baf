//! What crosses a border: conformance vectors and their runners.
