//! Model providers of Lomusai.
