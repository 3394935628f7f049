-- Jobs have artifacts from here on: a program that does not know them would run such a job without.
UPDATE hodei SET needs = 4;
