//! The kit under every binding of Lomusai: commands and events as JSON, answer handles, error mapping.
