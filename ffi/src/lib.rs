//! The C ABI of Lomusai.
