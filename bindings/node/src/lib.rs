//! Lomusai for Node.
