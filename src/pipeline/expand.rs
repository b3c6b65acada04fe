//! The few short forms of a pipeline file, written out: `for` variables (`{data}`) and alternatives
//! (`{hmd,mmh}`). It works on text and knows no steps.

use super::error::{PipelineError, Text};
use super::file::{Pairs, Raw};

/// The variables of one member of a `for` family: name and value as written in RON.
pub(super) type Vars = Vec<(String, String)>;

/// All combinations of a `for`, the last variable varying fastest; one empty combination without a `for`.
pub(super) fn combinations(for_each: &Pairs, text: &Text, base: &Vars) -> Result<Vec<Vars>, PipelineError> {
    let mut members = vec![base.clone()];
    for (name, values) in &for_each.0 {
        let variable = name.string(text)?;
        if members[0].iter().any(|(known, _)| *known == variable) {
            return Err(text.error(text.span(name.0), format!("variable `{variable}` is already taken")));
        }
        let values: Vec<&ron::value::RawValue> = ron::from_str(values.0)
            .map_err(|error| text.error(text.span(values.0), format!("a list of values: {}", error.code)))?;
        if values.is_empty() {
            return Err(text.error(text.span(name.0), format!("`{variable}` has no values")));
        }
        members = members
            .iter()
            .flat_map(|member| {
                values.iter().map(|value| {
                    let mut member = member.clone();
                    member.push((variable.clone(), value.trim().get_ron().to_owned()));
                    member
                })
            })
            .collect();
    }
    Ok(members)
}

/// `text` with each `{variable}` replaced by its value, a string without its quotes.
pub(super) fn substitute(text: &str, vars: &Vars) -> String {
    let mut done = text.to_owned();
    for (name, value) in vars {
        done = done.replace(&format!("{{{name}}}"), value.trim_matches('"'));
    }
    done
}

/// RON text with `"{variable}"` replaced by the value as it was written (so that a number stays a number) and
/// `{variable}` within a longer string by its characters.
pub(super) fn substitute_ron(ron: &str, vars: &Vars) -> String {
    let mut done = ron.to_owned();
    for (name, value) in vars {
        done = done.replace(&format!("\"{{{name}}}\""), value);
    }
    substitute(&done, vars)
}

/// A string of the file with its variables replaced and its alternatives multiplied out:
/// `{hmd,mmh}-{fc,pe}` → `hmd-fc`, `hmd-pe`, `mmh-fc`, `mmh-pe`.
pub(super) fn strings(raw: Raw, vars: &Vars, text: &Text) -> Result<Vec<String>, PipelineError> {
    let string = substitute(&raw.string(text)?, vars);
    let all = alternatives(&string);
    if let Some(left) = all.iter().find(|name| name.contains(['{', '}'])) {
        let unknown = left.split(['{', '}']).nth(1).unwrap_or_default();
        let message = format!("`{{{unknown}}}` in \"{left}\" is no variable here");
        return Err(text
            .error(text.span(raw.0), message)
            .nearest(unknown, vars.iter().map(|(n, _)| n.as_str())));
    }
    Ok(all)
}

/// Like [`strings`], for a place that takes exactly one.
pub(super) fn string(raw: Raw, vars: &Vars, text: &Text) -> Result<String, PipelineError> {
    let mut all = strings(raw, vars, text)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(text.error(text.span(raw.0), "one name is wanted here, not alternatives")),
    }
}

fn alternatives(pattern: &str) -> Vec<String> {
    let group = pattern.find('{').and_then(|open| {
        let close = open + pattern[open..].find('}')?;
        pattern[open..close].contains(',').then_some((open, close))
    });
    let Some((open, close)) = group else { return vec![pattern.to_owned()] };
    let tails = alternatives(&pattern[close + 1..]);
    pattern[open + 1..close]
        .split(',')
        .flat_map(|choice| {
            tails.iter().map(move |tail| format!("{}{}{tail}", &pattern[..open], choice.trim()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_multiply_out_in_order() {
        assert_eq!(alternatives("{hmd,mmh}-{fc,pe}"), ["hmd-fc", "hmd-pe", "mmh-fc", "mmh-pe"]);
        assert_eq!(alternatives("plain"), ["plain"]);
    }

    #[test]
    fn a_number_stays_a_number() {
        let vars = vec![("seed".to_owned(), "3".to_owned()), ("mode".to_owned(), "\"pe\"".to_owned())];
        assert_eq!(substitute_ron("\"{seed}\"", &vars), "3");
        assert_eq!(substitute_ron("\"{mode}\"", &vars), "\"pe\"");
        assert_eq!(substitute_ron("\"run-{mode}-{seed}\"", &vars), "\"run-pe-3\"");
    }
}
