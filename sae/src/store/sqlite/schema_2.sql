-- Version 2. Lists are sorted by the two arrays an analysis keeps of all its features, so no query went through these.
DROP INDEX features_by_act_times;
DROP INDEX features_by_max_act;
