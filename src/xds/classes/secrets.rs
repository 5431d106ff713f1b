//! The secrets that proxies are given, by namespace (contract §2.6): those of the proxy's own namespace that some object names, and
//! the ConfigMaps of any that one names, as what these hold is public.
//!
//! What was good stays when its Secret goes, cannot be used any more, or is replaced by one that has expired.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use smol_str::{SmolStr, ToSmolStr};

use crate::{
    api::Kind,
    clock::{Clock, system_clock},
    mesh::{
        credential::{Part, SecretName, Validity},
        model::Origin,
        world::{Touched, World},
    },
    translate::secret,
    xds::{encode, resource::Resource, view::Layer},
};

/// What there is to give.
pub(super) struct Secrets {
    clock: Clock,
    /// By name and namespace.
    served: BTreeMap<(SecretName, SmolStr), Served>,
    layers: BTreeMap<SmolStr, Layers>,
    /// What ConfigMaps hold, for all.
    public: Layer,
    /// Stands where there is nothing. It is one for all, as equal layers are known by their pointers.
    empty: Layer,
}

/// What is given under one name in one namespace.
#[derive(Clone, Debug, PartialEq)]
struct Served {
    resource: Option<Arc<Resource>>,
    /// Of what is given.
    validity: Option<Validity>,
    /// Of what the Secret holds now.
    offered: Option<Validity>,
    /// Why that is not as it should be.
    trouble: Option<SmolStr>,
    /// What of it is of no use.
    left_out: Option<SmolStr>,
}

/// The secrets of one namespace.
#[derive(Clone, Default)]
struct Layers {
    /// What peers are verified with.
    roots: Layer,
    /// Certificates with their keys.
    key_pairs: Layer,
}

/// What is wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) why: SmolStr,
    pub(super) given: Given,
}

/// What is given though something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Nothing,
    /// What the Secret held before.
    LastGood,
    /// What it holds, as nothing is better.
    AsItIs,
    /// What it holds, but for that part.
    WithoutIt,
}

impl Default for Secrets {
    fn default() -> Self {
        Self::new(system_clock())
    }
}

impl Secrets {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, served: BTreeMap::new(), layers: BTreeMap::new(), public: Layer::default(), empty: Layer::default() }
    }

    /// Brings what is given up to a new world, and to the time.
    pub(super) fn update(&mut self, world: &World, touched: &Touched) {
        let now = (self.clock)().as_second();
        let mut due: BTreeSet<(SecretName, SmolStr)> = BTreeSet::new();
        for holder in &touched.secrets {
            due.extend(world.names_of_secret(holder).map(|name| (name.clone(), holder.namespace.clone())));
        }
        for name in &touched.secret_names {
            if world.secret_users.contains_key(name) {
                due.extend(world.namespaces_of_secret(name).map(|namespace| (name.clone(), namespace.clone())));
            } else {
                self.remove(name);
            }
        }
        // What was not valid may be now, and the other way round.
        let changes =
            |served: &Served| [served.validity, served.offered].into_iter().flatten().any(|validity| validity.flaw_at(now).is_some());
        due.extend(self.served.iter().filter(|(_, served)| changes(served) || served.trouble.is_some()).map(|(key, _)| key.clone()));
        for (name, namespace) in due {
            self.serve(world, name, namespace, now);
        }
    }

    /// Returns the layers for proxies that have proven to be of a namespace. Keys are for those that may read them.
    pub(super) fn layers(&self, namespace: Option<&SmolStr>, may_read: bool) -> Vec<Layer> {
        let of = namespace.and_then(|namespace| self.layers.get(namespace));
        let roots = of.map_or(&self.empty, |of| &of.roots);
        let key_pairs = of.filter(|_| may_read).map_or(&self.empty, |of| &of.key_pairs);
        let public = namespace.map_or(&self.empty, |_| &self.public);
        [roots, key_pairs, public].map(Arc::clone).into()
    }

    /// Returns the namespaces that have keys to give.
    pub(super) fn namespaces(&self) -> BTreeSet<SmolStr> {
        self.layers.iter().filter(|(_, of)| !of.key_pairs.is_empty()).map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Returns what is wrong with a secret that proxies of `own` ask for; `None`: nothing is.
    pub(super) fn trouble(&self, own: &SmolStr, name: &SecretName) -> Option<Trouble> {
        let namespace = name.namespace_for(own);
        if namespace != own && name.kind() == Kind::Secret {
            let why = "is in another namespace than the proxy, which is given Secrets of its own only";
            return Some(Trouble { why: why.into(), given: Given::Nothing });
        }
        let Some(served) = self.served.get(&(name.clone(), namespace.clone())) else {
            return Some(Trouble { why: "does not exist".into(), given: Given::Nothing });
        };
        let given = match &served.resource {
            None => Given::Nothing,
            Some(_) if served.validity == served.offered => Given::AsItIs,
            Some(_) => Given::LastGood,
        };
        let left_out = || served.left_out.clone().map(|why| Trouble { why, given: Given::WithoutIt });
        served.trouble.clone().map(|why| Trouble { why, given }).or_else(left_out)
    }

    /// Returns when something begins or ceases to be valid next, in seconds since 1970.
    pub(super) fn next_change(&self) -> Option<i64> {
        let now = (self.clock)().as_second();
        let all = self.served.values().flat_map(|served| [served.validity, served.offered]);
        all.flatten().filter_map(|validity| validity.next_change(now)).min()
    }

    fn serve(&mut self, world: &World, name: SecretName, namespace: SmolStr, now: i64) {
        let before = self.served.get(&(name.clone(), namespace.clone())).cloned();
        let kept = |trouble: SmolStr, offered: Option<Validity>| match before.clone() {
            Some(before) => Served { trouble: Some(trouble), offered, ..before },
            None => Served { resource: None, validity: None, offered, trouble: Some(trouble), left_out: None },
        };
        let new = match offered(world, &name, &namespace) {
            Err(why) => kept(why, None),
            Ok(Offered { validity, resource, left_out }) => match validity.flaw_at(now) {
                Some(flaw) if before.as_ref().and_then(|before| before.validity).is_some_and(|valid| valid.flaw_at(now).is_none()) => {
                    kept(flaw.into(), Some(validity))
                }
                flaw => {
                    let trouble = flaw.map(SmolStr::from);
                    Served { resource: Some(resource), validity: Some(validity), offered: Some(validity), trouble, left_out }
                }
            },
        };
        if before.as_ref() != Some(&new) {
            self.put(&name, &namespace, new.resource.clone());
            self.served.insert((name, namespace), new);
        }
    }

    fn remove(&mut self, name: &SecretName) {
        let gone: Vec<_> = self.served.range((name.clone(), SmolStr::default())..).map(|(key, _)| key.clone()).collect();
        for key in gone.into_iter().take_while(|(other, _)| other == name) {
            self.served.remove(&key);
            self.put(name, &key.1, None);
        }
    }

    fn put(&mut self, name: &SecretName, namespace: &SmolStr, resource: Option<Arc<Resource>>) {
        if name.kind() == Kind::ConfigMap {
            return put_into(&mut self.public, name, resource);
        }
        if resource.is_none() && !self.layers.contains_key(namespace) {
            return;
        }
        let layers = self.layers.entry(namespace.clone()).or_default();
        let layer = match name.part {
            Part::Roots => &mut layers.roots,
            Part::KeyPair => &mut layers.key_pairs,
        };
        put_into(layer, name, resource);
        if layers.roots.is_empty() && layers.key_pairs.is_empty() {
            self.layers.remove(namespace);
        }
    }
}

fn put_into(layer: &mut Layer, name: &SecretName, resource: Option<Arc<Resource>>) {
    let text = name.to_smolstr();
    if layer.get(&text).map(|old| old.version) == resource.as_ref().map(|new| new.version) {
        return;
    }
    let layer: &mut OrdMap<SmolStr, Arc<Resource>> = Arc::make_mut(layer);
    match resource {
        Some(resource) => _ = layer.insert(text, resource),
        None => _ = layer.remove(&text),
    }
}

/// What a Secret or ConfigMap holds.
struct Offered {
    validity: Validity,
    resource: Arc<Resource>,
    /// What of it is of no use.
    left_out: Option<SmolStr>,
}

/// Makes the resource of what it holds.
fn offered(world: &World, name: &SecretName, namespace: &SmolStr) -> Result<Offered, SmolStr> {
    let credential = world.credential(namespace, name).ok_or("does not exist")?;
    let left_out = match (name.part, &credential.key_pair) {
        (Part::KeyPair, Ok(pair)) => pair.ocsp_staple.as_ref().err().cloned(),
        _ => None,
    };
    let (validity, message) = match name.part {
        Part::KeyPair => credential.key_pair.as_ref().map(|pair| (pair.validity, secret::key_pair(name, pair))),
        Part::Roots => credential.roots.as_ref().map(|roots| (roots.validity, secret::roots(name, roots))),
    }
    .map_err(Clone::clone)?;
    let users = world.secret_users.get(name).into_iter().flatten();
    let origins: Vec<Origin> = users.filter_map(|user| world.origin_of(user)).cloned().collect();
    Ok(Offered { validity, resource: Arc::new(encode::secret(&message, origins)), left_out })
}
