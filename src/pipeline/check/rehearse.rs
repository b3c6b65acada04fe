//! Combines a profile that rehearses another one with that profile.

use super::{Checker, matches};
use crate::pipeline::Rehearsal;
use crate::pipeline::error::{PipelineError, Text};
use crate::pipeline::file::{Pairs, ProfileForm, Raw};

/// The profile as it counts.
pub(super) struct Chosen<'a> {
    pub profile: ProfileForm<'a>,
    /// Its defaults, those of a rehearsed profile first.
    pub defaults: Vec<Pairs<'a>>,
    pub rehearsal: Option<Rehearsal>,
}

/// The effective profile: sources and defaults of the rehearsed profile come first. Its own sources replace those of
/// the same name.
pub(super) fn laid_over<'a>(
    own: &ProfileForm<'a>,
    profiles: &[ProfileForm<'a>],
    text: &Text<'a>,
) -> Result<Chosen<'a>, PipelineError> {
    let Some(raw) = own.rehearses else {
        return Ok(Chosen { profile: own.clone(), defaults: vec![own.defaults.clone()], rehearsal: None });
    };
    let rehearsal: Rehearsal = raw.parse(text)?;
    let (base, at) = base(&rehearsal, raw, profiles, text)?;
    if base.rehearses.is_some() {
        let problem = format!("`{}` rehearses another profile itself", rehearsal.profile);
        return Err(text.error(text.span(at.0), problem));
    }
    let mut profile = own.clone();
    let is_own = |name: &Raw| own.sources.iter().any(|source| source.name.0 == name.0);
    let kept = base.sources.iter().filter(|source| !is_own(&source.name)).cloned();
    profile.sources = kept.chain(own.sources.iter().cloned()).collect();
    profile.seeds = own.seeds.or(base.seeds);
    let defaults = vec![base.defaults.clone(), own.defaults.clone()];
    Ok(Chosen { profile, defaults, rehearsal: Some(rehearsal) })
}

fn base<'f, 'a>(
    rehearsal: &Rehearsal,
    raw: Raw<'a>,
    profiles: &'f [ProfileForm<'a>],
    text: &Text<'a>,
) -> Result<(&'f ProfileForm<'a>, Raw<'a>), PipelineError> {
    let mut names = Vec::new();
    for profile in profiles {
        let name = profile.name.string(text)?;
        if name == rehearsal.profile {
            return Ok((profile, raw));
        }
        names.push(name);
    }
    let problem = format!("there is no profile `{}` to rehearse", rehearsal.profile);
    Err(text.error(text.span(raw.0), problem).nearest(&rehearsal.profile, names.iter().map(String::as_str)))
}

/// Pairs of a rehearsed profile and its rehearsal.
pub(super) fn pairs(profiles: &[ProfileForm], text: &Text) -> Result<Vec<(String, String)>, PipelineError> {
    let rehearsing = profiles.iter().filter_map(|profile| Some((profile, profile.rehearses?)));
    rehearsing
        .map(|(profile, raw)| Ok((raw.parse::<Rehearsal>(text)?.profile, profile.name.string(text)?)))
        .collect()
}

impl<'a> Checker<'_, 'a> {
    /// Rejects names in a rehearsal that match no step.
    pub(super) fn refuse_idle_rehearsal(
        &self,
        own: &ProfileForm<'a>,
        rehearsal: &Rehearsal,
    ) -> Result<(), PipelineError> {
        let steps = || self.graph.node_weights().map(|step| step.name.as_str());
        let named = rehearsal.leaves_out.keys().chain(rehearsal.real.keys());
        for name in named {
            if !steps().any(|step| matches(name, step)) {
                let at = own.rehearses.unwrap_or(own.name);
                return Err(self
                    .error(at, format!("the rehearsal names `{name}`, but no step has this name"))
                    .nearest(name, steps()));
            }
        }
        Ok(())
    }
}
