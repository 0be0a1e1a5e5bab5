//! Renaming and removing a dictionary: changes of several collections that belong together. A server with transactions (a replica
//! set, of one member too) makes all of them or none; on one without, a change that was cut off is finished by asking for it
//! again, because the dictionary's own document is changed last.

use super::{At as _, LISTS, MongoStore, generation, of};
use crate::{
    Error, Result,
    store::{DictionaryKey, FeatureList, Store as _, check_name},
};
use mongodb::{
    bson::{Document, doc},
    sync::ClientSession,
};

/// A change of one collection.
enum Change {
    Update(&'static str, Document, Document),
    Delete(&'static str, Document),
}

impl MongoStore {
    pub(super) fn rename(&self, key: &DictionaryKey, name: &str) -> Result<()> {
        check_name(name)?;
        self.require(key)?;
        if name == key.name {
            return Ok(());
        }
        if self.dictionary(&DictionaryKey::new(name, &key.series))?.is_some() {
            let what = format!("there is a dictionary {name:?} in series {:?} already", key.series);
            return Err(Error::Data { what });
        }
        let set = doc! { "$set": { "sae_name": name } };
        let mut changes: Vec<Change> = ["features", "analyses", "bookmarks"]
            .map(|collection| Change::Update(collection, of(key), set.clone()))
            .into();
        let arrays = |field: &str| format!("metadata.lm_saes.{field}");
        let ours = doc! { arrays("sae_name"): &key.name, arrays("sae_series"): &key.series };
        changes.push(Change::Update("fs.files", ours, doc! { "$set": { arrays("sae_name"): name } }));
        let tokens = doc! { "$set": { "sae_name": name } };
        changes.push(Change::Update(super::TOKENS, of(key), tokens));
        let sets = doc! { "sae_series": &key.series, "sae_names": &key.name };
        changes.push(Change::Update("sae_sets", sets, doc! { "$set": { "sae_names.$": name } }));
        changes.extend(self.lists_with(key, |list| {
            let members = list.features.iter_mut().filter(|f| f.dictionary == *key);
            members.for_each(|f| f.dictionary.name = name.into());
        })?);
        changes.push(Change::Update("saes", registered(key), doc! { "$set": { "name": name } }));
        self.together(&changes)
    }

    pub(super) fn remove(&self, key: &DictionaryKey) -> Result<()> {
        self.require(key)?;
        let analyses = self.find_all("analyses", of(key), doc! {})?;
        let mut changes: Vec<Change> = ["features", "analyses", "bookmarks"]
            .map(|collection| Change::Delete(collection, of(key)))
            .into();
        let sets = doc! { "sae_series": &key.series, "sae_names": &key.name };
        changes.push(Change::Update("sae_sets", sets, doc! { "$pull": { "sae_names": &key.name } }));
        changes.extend(self.lists_with(key, |list| list.features.retain(|f| f.dictionary != *key))?);
        changes.push(Change::Delete("saes", registered(key)));
        self.together(&changes)?;
        // Nothing points to these any more.
        analyses.iter().try_for_each(|a| self.remove_generation(&generation(a)))?;
        self.remove_arrays(key, None, None)
    }

    /// What rewrites the lists with features of a dictionary.
    fn lists_with(&self, key: &DictionaryKey, change: impl Fn(&mut FeatureList)) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for d in self.find_all(LISTS, Document::new(), doc! { "name": 1 })? {
            let text = super::text(&d, "list");
            let mut list: FeatureList = serde_json::from_str(&text).at(self)?;
            if list.features.iter().any(|f| f.dictionary == *key) {
                change(&mut list);
                let new = serde_json::to_string(&list).at(self)?;
                let which = doc! { "name": &list.name };
                changes.push(Change::Update(LISTS, which, doc! { "$set": { "list": new } }));
            }
        }
        Ok(changes)
    }

    fn together(&self, changes: &[Change]) -> Result<()> {
        let about = self.db.run_command(doc! { "hello": 1 }).run().at(self)?;
        let has_transactions =
            about.get_str("setName").is_ok() || about.get_str("msg").is_ok_and(|m| m == "isdbgrid");
        if !has_transactions {
            return changes.iter().try_for_each(|c| self.change(c, None)).at(self);
        }
        let mut session = self.client.start_session().run().at(self)?;
        let all = |session: &mut ClientSession| {
            changes.iter().try_for_each(|c| self.change(c, Some(&mut *session)))
        };
        session.start_transaction().and_run(all).at(self)
    }

    fn change(&self, change: &Change, session: Option<&mut ClientSession>) -> mongodb::error::Result<()> {
        match change {
            Change::Update(collection, which, set) => {
                let all = self.of(collection);
                let action = all.update_many(which.clone(), set.clone());
                match session {
                    Some(session) => action.session(session).run().map(drop),
                    None => action.run().map(drop),
                }
            }
            Change::Delete(collection, which) => {
                let all = self.of(collection);
                let action = all.delete_many(which.clone());
                match session {
                    Some(session) => action.session(session).run().map(drop),
                    None => action.run().map(drop),
                }
            }
        }
    }
}

/// The dictionary's own document.
fn registered(key: &DictionaryKey) -> Document {
    doc! { "name": &key.name, "series": &key.series }
}
