//! `#[derive(ParamEnum)]`: a param that is one of a few names. It does not know what the names mean.

use proc_macro::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DeriveInput, Error, Fields, LitStr, parse_macro_input};

/// Makes an enum without data a param whose values are strings, named by `#[serde(rename_all = "…")]`: `lowercase`,
/// `snake_case` or `kebab-case`. It gets `ALL`, `as_str`, `from_name`, and the traits of serde; `JsonSchema` is derived as usual.
///
/// `#[param(unquoted)]` writes the name without quotes in canonical params, for enums whose keys are older than this
/// derive. Both spellings are read then.
#[proc_macro_derive(ParamEnum, attributes(serde, param))]
pub fn param_enum(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let (ident, vis) = (&input.ident, &input.vis);
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(ident, "only an enum has names to choose from"));
    };
    if let Some(variant) = data.variants.iter().find(|variant| !matches!(variant.fields, Fields::Unit)) {
        return Err(Error::new_spanned(variant, "a name holds no data"));
    }
    let rule = rename_rule(&input.attrs)?;
    let variants: Vec<_> = data.variants.iter().map(|variant| &variant.ident).collect();
    let names: Vec<String> = variants.iter().map(|variant| renamed(&variant.to_string(), &rule)).collect();
    let (count, type_name) = (variants.len(), ident.to_string());
    let unquoted = is_unquoted(&input.attrs)?;
    let write = match unquoted {
        true => quote!(serializer.serialize_unit_variant(#type_name, *self as u32, self.as_str())),
        false => quote!(serializer.serialize_str(self.as_str())),
    };
    let read = match unquoted {
        true => quote!(::stage_api::quoted_or_not(deserializer)?),
        false => quote!(<::std::string::String as ::serde::Deserialize>::deserialize(deserializer)?),
    };
    Ok(quote! {
        #[allow(dead_code, reason = "not every enum needs all of them")]
        impl #ident {
            /// All values, in the order of their declaration.
            #vis const ALL: [Self; #count] = [#(Self::#variants),*];

            /// The name of the value, as params have it.
            #vis const fn as_str(self) -> &'static str {
                match self { #(Self::#variants => #names),* }
            }

            /// The value of this name.
            #vis fn from_name(name: &str) -> ::std::option::Option<Self> {
                Self::ALL.into_iter().find(|value| value.as_str() == name)
            }
        }

        impl ::serde::Serialize for #ident {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> ::std::result::Result<S::Ok, S::Error> {
                #write
            }
        }

        impl<'de> ::serde::Deserialize<'de> for #ident {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> ::std::result::Result<Self, D::Error> {
                let name = #read;
                Self::from_name(&name)
                    .ok_or_else(|| ::serde::de::Error::unknown_variant(&name, &[#(#names),*]))
            }
        }
    })
}

fn rename_rule(attributes: &[Attribute]) -> syn::Result<String> {
    let mut rule = String::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("rename_all") {
                return Err(meta.error("only `rename_all` is known here"));
            }
            rule = meta.value()?.parse::<LitStr>()?.value();
            match rule.as_str() {
                "lowercase" | "snake_case" | "kebab-case" => Ok(()),
                _ => Err(meta.error("expected `lowercase`, `snake_case` or `kebab-case`")),
            }
        })?;
    }
    Ok(rule)
}

fn is_unquoted(attributes: &[Attribute]) -> syn::Result<bool> {
    let mut unquoted = false;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("param")) {
        attribute.parse_nested_meta(|meta| {
            unquoted = meta.path.is_ident("unquoted");
            if unquoted { Ok(()) } else { Err(meta.error("only `unquoted` is known here")) }
        })?;
    }
    Ok(unquoted)
}

/// The name of a variant by the rules of serde.
fn renamed(variant: &str, rule: &str) -> String {
    let between = match rule {
        "snake_case" => "_",
        "kebab-case" => "-",
        "lowercase" => "",
        _ => return variant.to_owned(),
    };
    let mut name = String::new();
    for (at, c) in variant.char_indices() {
        if at > 0 && c.is_uppercase() {
            name.push_str(between);
        }
        name.extend(c.to_lowercase());
    }
    name
}
