-- federation.family: the family of names that a domain is in, its last two labels: whoever has one name has as many
-- below it as they like, so bounds that are shared out by name are shared out by family.
--
--   domain: another domain than the home domain
--
-- Called by functions of federation that share something out.
CREATE OR REPLACE FUNCTION federation.family(domain text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(substring(family.domain FROM '[^.]*[.][^.]*$'), family.domain);
END
$$;
