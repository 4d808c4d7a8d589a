-- federation.family: the family of names that a domain is in, its last two labels, or three where names are sold below two
-- (a.co.uk): whoever has one name has as many below it as they like, so bounds that are shared out by name are shared out by
-- family.
--
--   domain: another domain than the home domain
--
-- The labels below which names are sold are the same in postern_protocol::name::family, which says why they are few. They stay
-- as they are: federation.outbox_bytes and federation.due have rows by families.
-- Called by functions of federation that share something out, and by operator.figures.
CREATE OR REPLACE FUNCTION federation.family(domain text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(
        substring(family.domain FROM '[^.]+[.](?:ac|co|com|edu|gob|go|gov|ne|net|or|org)[.][a-z][a-z]$'),
        substring(family.domain FROM '[^.]*[.][^.]*$'),
        family.domain);
END
$$;
