-- How the server's statements are planned: by index, and once. A backend whose plans were made while the tables were
-- small must not read them whole when they are large; and deliveries lock queues in the order in which their ids are
-- joined, which a hash would shuffle. A role's settings and not SET clauses on the functions: those cost a delivery to
-- 10 queues a fifth of its time.
DO $$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY ARRAY['plan_cache_mode = force_generic_plan', 'enable_seqscan = off',
                                   'enable_hashjoin = off', 'enable_mergejoin = off'] LOOP
        EXECUTE format('ALTER ROLE postern_server IN DATABASE %I SET %s', current_database(), setting);
    END LOOP;
END
$$;
