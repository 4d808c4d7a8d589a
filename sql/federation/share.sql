-- federation.share: the name under which a domain takes its turn: its family's, or its own if the operator allowed it.
--
--   domain: another domain than the home domain
--
-- Called by federation.note_due and federation.reconsider_lanes.
CREATE OR REPLACE FUNCTION federation.share(domain text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN EXISTS (SELECT FROM federation.rules r WHERE r.domain = share.domain AND r.rule = 'allowed')
                THEN share.domain ELSE federation.family(share.domain) END;
END
$$;
