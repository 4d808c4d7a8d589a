-- KeyPackages of every ciphersuite that the operator allows (QS-6): a stock is of one.

ALTER TABLE qs.stocks ADD COLUMN ciphersuite integer NOT NULL DEFAULT 1;
COMMENT ON TABLE qs.stocks IS 'The clients of a friendship, once for each ciphersuite that they have KeyPackages of';
COMMENT ON COLUMN qs.stocks.ciphersuite IS 'RFC 9420 §17.1: of all its packages. Changes with each publication';
COMMENT ON COLUMN qs.stocks.stock_id IS '16 random bytes, chosen by the client for one of its ciphersuites. Never changes';
COMMENT ON COLUMN qs.settings.key_packages_per_stock IS 'KeyPackages that a stock has at most, its last resort not counted. May change';
COMMENT ON COLUMN qs.settings.stocks_per_friendship IS 'Stocks that a friendship has at most: one for each client and ciphersuite. May change';
COMMENT ON COLUMN ds.settings.ciphersuites IS 'RFC 9420 §17.1: of new groups, of members added to any, and of KeyPackages. 1 is always among them. May change';
