-- When the rules heard that it began and that it was over: what they decided then, a backtest decides at the same times.
ALTER TABLE outside_firings ADD COLUMN told_s DOUBLE PRECISION;
ALTER TABLE outside_firings ADD COLUMN over_s DOUBLE PRECISION;
