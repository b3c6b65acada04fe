//! Expands the short forms of a pipeline file: `for` variables (`{data}`), alternatives (`{hmd,mmh}`) and ranges
//! (`{1..3}`, both ends included, empty if they are reversed). It works on text and knows no steps.

use std::ops::RangeInclusive;

use super::error::{PipelineError, Text};
use super::file::{Pairs, Raw};

/// Limit for the members of a family and for the names of a pattern.
const MAX_EXPANSION: usize = 100_000;

/// The variables of one member of a `for` family: name and value as written in RON.
pub(super) type Vars = Vec<(String, String)>;

/// All combinations of a `for`, the last variable varying fastest; one empty combination without a `for`.
pub(super) fn combinations(for_each: &Pairs, text: &Text, base: &Vars) -> Result<Vec<Vars>, PipelineError> {
    let mut members = vec![base.clone()];
    let mut taken: Vec<String> = base.iter().map(|(name, _)| name.clone()).collect();
    for (name, values) in &for_each.0 {
        let variable = name.string(text)?;
        if taken.contains(&variable) {
            return Err(text.error(text.span(name.0), format!("variable `{variable}` is already defined")));
        }
        taken.push(variable.clone());
        let values = values_of(*name, *values, base, text)?;
        if members.len().saturating_mul(values.len()) > MAX_EXPANSION {
            let problem = format!("this family has more than {MAX_EXPANSION} members");
            return Err(text.error(text.span(name.0), problem));
        }
        members = members
            .iter()
            .flat_map(|member| {
                values.iter().map(|value| {
                    let mut member = member.clone();
                    member.push((variable.clone(), value.clone()));
                    member
                })
            })
            .collect();
    }
    Ok(members)
}

/// The values of a variable as written in RON: those of a list, or the numbers of a range, which may be empty.
fn values_of(name: Raw, values: Raw, base: &Vars, text: &Text) -> Result<Vec<String>, PipelineError> {
    if values.0.starts_with('"') {
        let written = substitute(&values.string(text)?, base);
        let Some(range) = range(&written) else {
            let problem = format!(
                "`{written}` is not a range; write two numbers with `..` between them, as in \"2..5\""
            );
            return Err(text.error(text.span(values.0), problem));
        };
        let too_many =
            || text.error(text.span(values.0), format!("this range has more than {MAX_EXPANSION} numbers"));
        return if range.clone().count() > MAX_EXPANSION {
            Err(too_many())
        } else {
            Ok(range.map(|n| n.to_string()).collect())
        };
    }
    let listed: Vec<&ron::value::RawValue> = ron::from_str(values.0)
        .map_err(|error| text.error(text.span(values.0), format!("not a list of values: {}", error.code)))?;
    if listed.is_empty() {
        let variable = name.string(text)?;
        return Err(text.error(text.span(name.0), format!("`{variable}` has an empty list of values")));
    }
    Ok(listed.into_iter().map(|value| value.trim().get_ron().to_owned()).collect())
}

/// The numbers of a range, both ends included.
fn range(written: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = written.split_once("..")?;
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}

/// `text` with each `{variable}` replaced by its value, a string without its quotes. Inserted text is not expanded
/// again, so values that name each other cannot recurse.
pub(super) fn substitute(text: &str, vars: &Vars) -> String {
    replaced(text, vars, false)
}

/// RON text with `"{variable}"` replaced by the value as written, so that a number stays a number. Within a longer
/// string, `{variable}` is replaced by the characters of the value.
pub(super) fn substitute_ron(ron: &str, vars: &Vars) -> String {
    replaced(ron, vars, true)
}

fn replaced(text: &str, vars: &Vars, is_ron: bool) -> String {
    let (mut done, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        let named = |(name, _): &&(String, String)| {
            from[1..].strip_prefix(name.as_str()).is_some_and(|after| after.starts_with('}'))
        };
        let Some((name, value)) = vars.iter().find(named) else {
            done.push_str(before);
            done.push('{');
            rest = &from[1..];
            continue;
        };
        let after = &from[name.len() + 2..];
        match (before.strip_suffix('"'), after.strip_prefix('"')) {
            (Some(before), Some(after)) if is_ron => {
                done.push_str(before);
                done.push_str(value);
                rest = after;
            }
            _ => {
                done.push_str(before);
                done.push_str(value.trim_matches('"'));
                rest = after;
            }
        }
    }
    done + rest
}

/// A string of the file with its variables replaced and its alternatives expanded: `{hmd,mmh}-{fc,pe}` → `hmd-fc`,
/// `hmd-pe`, `mmh-fc`, `mmh-pe`.
pub(super) fn strings(raw: Raw, vars: &Vars, text: &Text) -> Result<Vec<String>, PipelineError> {
    let string = substitute(&raw.string(text)?, vars);
    // All remaining braces belong to alternatives; their numbers multiply.
    let many = string
        .split('{')
        .skip(1)
        .map(|part| part.split('}').next().unwrap_or_default())
        .map(|group| range(group).map_or(1 + group.matches(',').count(), |range| range.count().max(1)));
    if many.fold(1, usize::saturating_mul) > MAX_EXPANSION {
        return Err(text.error(
            text.span(raw.0),
            format!("these alternatives expand to more than {MAX_EXPANSION} names"),
        ));
    }
    let all = alternatives(&string);
    if let Some(left) = all.iter().find(|name| name.contains(['{', '}'])) {
        let unknown = left.split(['{', '}']).nth(1).unwrap_or_default();
        let message = format!("`{{{unknown}}}` in \"{left}\" is not a variable here");
        return Err(text
            .error(text.span(raw.0), message)
            .nearest(unknown, vars.iter().map(|(n, _)| n.as_str())));
    }
    Ok(all)
}

/// Like [`strings`], for a position that takes exactly one.
pub(super) fn string(raw: Raw, vars: &Vars, text: &Text) -> Result<String, PipelineError> {
    let mut all = strings(raw, vars, text)?;
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(text.error(text.span(raw.0), "exactly one name is required here, not alternatives")),
    }
}

fn alternatives(pattern: &str) -> Vec<String> {
    let (mut all, mut rest) = (vec![String::new()], pattern);
    loop {
        let group = rest.find('{').and_then(|open| {
            let close = open + rest[open..].find('}')?;
            let group = &rest[open + 1..close];
            (group.contains(',') || range(group).is_some()).then_some((open, close))
        });
        let Some((open, close)) = group else {
            all.iter_mut().for_each(|name| name.push_str(rest));
            return all;
        };
        let group = &rest[open + 1..close];
        let choices: Vec<String> = match range(group) {
            Some(range) => range.map(|number| number.to_string()).collect(),
            None => group.split(',').map(|choice| choice.trim().to_owned()).collect(),
        };
        all = all
            .iter()
            .flat_map(|head| choices.iter().map(move |choice| format!("{head}{}{choice}", &rest[..open])))
            .collect();
        rest = &rest[close + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_expand_in_order() {
        assert_eq!(alternatives("{hmd,mmh}-{fc,pe}"), ["hmd-fc", "hmd-pe", "mmh-fc", "mmh-pe"]);
        assert_eq!(alternatives("plain"), ["plain"]);
        assert_eq!(alternatives("x{a, b}y{c,d}z").last().unwrap(), "xbydz");
        assert_eq!(alternatives("{a,b}{c"), ["a{c", "b{c"]);
        assert_eq!(alternatives("s{9..11}-{a,b}"), ["s9-a", "s9-b", "s10-a", "s10-b", "s11-a", "s11-b"]);
        assert_eq!(alternatives("s{2..1}"), [""; 0]);
        assert_eq!(alternatives("{1..x}"), ["{1..x}"]);
    }

    #[test]
    fn an_expansion_beyond_the_limit_is_an_error() {
        let pattern = format!("\"{}\"", "{a,b}".repeat(1000));
        let text = Text::new(std::path::Path::new("p"), &pattern);
        let error = strings(Raw(&pattern), &Vec::new(), &text).unwrap_err();
        assert!(error.to_string().contains("more than 100000 names"), "{error}");
        let pattern = "\"{1..4000000000}\"";
        let text = Text::new(std::path::Path::new("p"), pattern);
        assert!(strings(Raw(pattern), &Vec::new(), &text).is_err());
        let family = format!("{{{}}}", (0..30).map(|i| format!("\"v{i}\": [1, 2], ")).collect::<String>());
        let text = Text::new(std::path::Path::new("p"), &family);
        let error = combinations(&ron::from_str(&family).unwrap(), &text, &Vec::new()).unwrap_err();
        assert!(error.to_string().contains("more than 100000 members"), "{error}");
    }

    #[test]
    fn values_that_name_variables_are_not_expanded_again() {
        let vars: Vars = (0..60).map(|i| (format!("v{i}"), format!("\"{{v{0}}}{{v{0}}}\"", i + 1))).collect();
        assert_eq!(substitute("{v0} {v}{x", &vars), "{v1}{v1} {v}{x");
    }

    #[test]
    fn a_number_stays_a_number() {
        let vars = vec![("seed".to_owned(), "3".to_owned()), ("mode".to_owned(), "\"pe\"".to_owned())];
        assert_eq!(substitute_ron("\"{seed}\"", &vars), "3");
        assert_eq!(substitute_ron("\"{mode}\"", &vars), "\"pe\"");
        assert_eq!(substitute_ron("\"run-{mode}-{seed}\"", &vars), "\"run-pe-3\"");
    }
}
