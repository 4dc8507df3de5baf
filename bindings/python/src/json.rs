//! JSON text to Python objects and back, without a tree in between.

use std::fmt;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error;

/// As deep as the engine reads JSON.
const DEPTH_MAX: u32 = 127;

/// Reads JSON.
#[pyfunction]
pub(crate) fn decode<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    if has_long_number(text) {
        // Python's integers have no end, serde_json's do: the slow way keeps every digit.
        return py.import("json")?.getattr("loads")?.call1((text,));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed(py).deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|e| PyValueError::new_err(format!("not JSON: {e}")))
}

/// Writes JSON. What Python has and JSON has not is reduced by `lomusai._json.reduce`.
#[pyfunction]
pub(crate) fn encode(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut out = Vec::with_capacity(128);
    write(value, &mut out, 0)?;
    Ok(String::from_utf8(out).expect("made of strings"))
}

/// Whether there may be a number of more digits than 64 bits hold. Digits inside of a text give a false alarm, which costs only time.
fn has_long_number(text: &str) -> bool {
    let mut digits = 0;
    text.bytes().any(|byte| {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        digits >= 19
    })
}

struct Seed<'py>(Python<'py>);

impl<'de, 'py> DeserializeSeed<'de> for Seed<'py> {
    type Value = Bound<'py, PyAny>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, 'py> Visitor<'de> for Seed<'py> {
    type Value = Bound<'py, PyAny>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.0.None().into_bound(self.0))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(PyBool::new(self.0, value).to_owned().into_any())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(PyInt::new(self.0, value).into_any())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(PyInt::new(self.0, value).into_any())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(PyFloat::new(self.0, value).into_any())
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(PyString::new(self.0, value).into_any())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let list = PyList::empty(self.0);
        while let Some(item) = items.next_element_seed(Seed(self.0))? {
            list.append(item).map_err(A::Error::custom)?;
        }
        Ok(list.into_any())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let dict = PyDict::new(self.0);
        while let Some(key) = fields.next_key_seed(Seed(self.0))? {
            let value = fields.next_value_seed(Seed(self.0))?;
            dict.set_item(key, value).map_err(A::Error::custom)?;
        }
        Ok(dict.into_any())
    }
}

fn write(value: &Bound<'_, PyAny>, out: &mut Vec<u8>, depth: u32) -> PyResult<()> {
    let py = value.py();
    if depth > DEPTH_MAX {
        return Err(error::not_json(py, "json_invalid", format!("the value is nested deeper than {DEPTH_MAX} levels")));
    }
    if let Ok(text) = value.cast_exact::<PyString>() {
        return write_text(text, out);
    }
    if value.is_none() {
        out.extend_from_slice(b"null");
    } else if let Ok(flag) = value.cast_exact::<PyBool>() {
        out.extend_from_slice(if flag.is_true() { b"true" } else { b"false" });
    } else if let Ok(number) = value.cast_exact::<PyInt>() {
        write_integer(number, out)?;
    } else if let Ok(number) = value.cast_exact::<PyFloat>() {
        let number: f64 = number.extract()?;
        if !number.is_finite() {
            return Err(error::not_json(
                py,
                "json_invalid",
                format!("{number} is no JSON number: give None or a text"),
            ));
        }
        serde_json::to_writer(&mut *out, &number).expect("writes to memory");
    } else if let Ok(dict) = value.cast::<PyDict>() {
        out.push(b'{');
        for (place, (key, value)) in dict.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_key(&key, out)?;
            out.push(b':');
            write(&value, out, depth + 1)?;
        }
        out.push(b'}');
    } else if let Ok(list) = value.cast::<PyList>() {
        write_items(list.iter(), out, depth)?;
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        write_items(tuple.iter(), out, depth)?;
    } else {
        let simpler = py.import("lomusai._json")?.getattr("reduce")?.call1((value,))?;
        write(&simpler, out, depth + 1)?;
    }
    Ok(())
}

fn write_items<'py>(items: impl Iterator<Item = Bound<'py, PyAny>>, out: &mut Vec<u8>, depth: u32) -> PyResult<()> {
    out.push(b'[');
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(&item, out, depth + 1)?;
    }
    out.push(b']');
    Ok(())
}

fn write_text(text: &Bound<'_, PyString>, out: &mut Vec<u8>) -> PyResult<()> {
    let text = text.to_str().map_err(|e| {
        let error = error::not_json(text.py(), "utf8_invalid", format!("a text is not valid Unicode: {e}"));
        error.set_cause(text.py(), Some(e));
        error
    })?;
    serde_json::to_writer(out, text).expect("writes to memory");
    Ok(())
}

fn write_integer(number: &Bound<'_, PyInt>, out: &mut Vec<u8>) -> PyResult<()> {
    if let Ok(small) = number.extract::<i64>() {
        serde_json::to_writer(out, &small).expect("writes to memory");
    } else if let Ok(large) = number.extract::<u64>() {
        serde_json::to_writer(out, &large).expect("writes to memory");
    } else {
        // As every integer beyond 2^53 in a journal: the digits, as a text.
        write_text(&number.str()?, out)?;
    }
    Ok(())
}

fn write_key(key: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    if let Ok(text) = key.cast::<PyString>() {
        return write_text(text, out);
    }
    if let Ok(number) = key.cast_exact::<PyInt>() {
        return write_text(&number.str()?, out);
    }
    let message = format!("a key of a JSON object is a text, not {}", key.get_type().name()?);
    Err(error::not_json(key.py(), "json_invalid", message))
}
