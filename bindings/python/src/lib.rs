//! The native half of Lomusai for Python: engine, runs and answer handles as classes, JSON as Python objects.
//!
//! What people use is the Python package around it; nothing here is decided that Node would decide again.

mod answer;
mod bridge;
mod engine;
mod error;
mod handler;
mod json;
mod run;
mod threads;

use pyo3::prelude::*;

lomusai_host::allocator!();

/// The extension module `lomusai._lomusai`.
#[pymodule(gil_used = false)]
fn _lomusai(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<run::Run>()?;
    module.add_class::<run::Observer>()?;
    module.add_class::<answer::Answer>()?;
    module.add_class::<answer::Call>()?;
    module.add_class::<bridge::Bridge>()?;
    module.add_class::<handler::Host>()?;
    module.add_function(wrap_pyfunction!(engine::draft_workflow, module)?)?;
    module.add_function(wrap_pyfunction!(engine::name_functions, module)?)?;
    module.add_function(wrap_pyfunction!(json::decode, module)?)?;
    module.add_function(wrap_pyfunction!(json::encode, module)?)?;
    module.add_function(wrap_pyfunction!(bridge::set_default_bridge, module)?)?;
    module.add_function(wrap_pyfunction!(threads::begin_exit, module)?)?;
    module.add_function(wrap_pyfunction!(threads::after_fork, module)?)?;
    Ok(())
}
