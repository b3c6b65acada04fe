//! Files that a page carries within itself as links: a table as CSV and LaTeX, a figure as PDF. So the links work wherever
//! the page is, without a network and without other files.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::{Value, context};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Picture;
use crate::reports::table::Table;

/// What a text in a `data:` URI keeps as it is: the unreserved characters of RFC 3986, and the comma of CSV.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b',');

/// The forms of a table; `name` is that of the files.
pub fn of_table(name: &str, table: &Table) -> Vec<Value> {
    let csv = table.csv().ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let csv = csv.map(|text| link("CSV", &format!("{name}.csv"), &text_uri("text/csv", &text)));
    let latex = link("LaTeX", &format!("{name}.tex"), &text_uri("text/x-tex", &table.latex()));
    csv.into_iter().chain([latex]).collect()
}

/// The PDF of a figure, if it has one.
pub fn of_picture(name: &str, picture: &Picture) -> Vec<Value> {
    let uri = |bytes: &Vec<u8>| format!("data:application/pdf;base64,{}", STANDARD.encode(bytes));
    picture.pdf.iter().map(|bytes| link("PDF", &format!("{name}.pdf"), &uri(bytes))).collect()
}

fn text_uri(kind: &str, text: &str) -> String {
    format!("data:{kind};charset=utf-8,{}", utf8_percent_encode(text, ENCODED))
}

fn link(label: &str, file: &str, uri: &str) -> Value {
    // Both encodings leave nothing that ends an attribute.
    context! { label, file, uri => Value::from_safe_string(uri.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_letters_and_cannot_leave_an_attribute() {
        assert_eq!(
            text_uri("text/csv", "a,b\n1.5,\"<x>\"\u{e9}"),
            "data:text/csv;charset=utf-8,a,b%0A1.5,%22%3Cx%3E%22%C3%A9"
        );
    }
}
