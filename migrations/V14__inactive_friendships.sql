-- Friendships whose owners do not come any more are found by the day of their last request (QS-8).

CREATE INDEX friendships_by_last_active ON qs.friendships (last_active);
